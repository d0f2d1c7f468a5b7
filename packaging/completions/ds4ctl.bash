# bash completion for ds4ctl and ds4-eval. What there is to complete is asked of their --help, so this file
# names no subcommand and no option.
# shellcheck shell=bash disable=SC2207 # compgen's words hold no blanks

# _ds4_subcommands PROGRAM [SUBCOMMAND...]
_ds4_subcommands() {
  "$@" --help 2>/dev/null | sed -n '/^Subcommands:/,/^$/s/^  \([a-z][a-z-]*\) .*/\1/p'
}

# _ds4_options PROGRAM [SUBCOMMAND...]
_ds4_options() {
  "$@" --help 2>/dev/null | sed -n 's/^ *\(-[a-z],\)\{0,1\}\(--[a-z][a-z-]*\).*/\2/p'
}

# _ds4_nodes CLUSTER_FILE: the names in its [nodes].
_ds4_nodes() {
  sed -n '/^\[nodes\]/,/^\[[^n]/s/^ *"\{0,1\}\([A-Za-z0-9_.-]*\)"\{0,1\} *=.*/\1/p' "$1" 2>/dev/null
}

_ds4() {
  local current=${COMP_WORDS[COMP_CWORD]} command=("$1") cluster=/etc/ds4d/cluster.toml i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; ++i)); do
    case ${COMP_WORDS[i]} in
      --cluster) cluster=${COMP_WORDS[++i]} ;;
      -*) ;;
      *)
        if _ds4_subcommands "${command[@]}" | grep -qxF -- "${COMP_WORDS[i]}"; then
          command+=("${COMP_WORDS[i]}")
        fi
        ;;
    esac
  done

  case $current in
    -*)
      COMPREPLY=($(compgen -W "$(_ds4_options "${command[@]}") $(_ds4_options "$1")" -- "$current"))
      return
      ;;
  esac
  case ${COMP_WORDS[COMP_CWORD - 1]} in
    --cluster | --model | --socket | --state-dir | --out | --text | --tokens)
      COMPREPLY=($(compgen -f -- "$current"))
      return
      ;;
  esac
  case ${command[1]-} in
    assign)
      if [[ " ${COMP_WORDS[*]} " == *" --auto "* ]]; then
        COMPREPLY=($(compgen -W "$(_ds4_nodes "$cluster")" -- "$current"))
      else
        COMPREPLY=($(compgen -S = -W "$(_ds4_nodes "$cluster")" -- "$current"))
        compopt -o nospace 2>/dev/null
      fi
      ;;
    release | drain | plan) COMPREPLY=($(compgen -W "$(_ds4_nodes "$cluster")" -- "$current")) ;;
    *) COMPREPLY=($(compgen -W "$(_ds4_subcommands "${command[@]}")" -- "$current")) ;;
  esac
}
complete -F _ds4 ds4ctl ds4-eval
