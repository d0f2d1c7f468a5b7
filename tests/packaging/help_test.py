#!/usr/bin/env python3
"""Every subcommand and option that --help shows is in the manual, and bash and zsh complete it.

zsh is asked only where it is installed.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def output(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout


def subcommands(*command):
    section = re.search(r"^Subcommands:\n(.*?)(?:\n\n|\Z)", output(*command, "--help"), re.S | re.M)
    return re.findall(r"^  ([a-z][a-z-]*) ", section.group(1), re.M) if section else []


def options(*command):
    return re.findall(r"^ *(?:-\w,)?(--[a-z][a-z-]*)", output(*command, "--help"), re.M)


def manual_section(text, heading):
    """The lines of `.Ss heading ...`, or those before the first .Ss if heading is None."""
    parts = re.split(r"^\.Ss ", text, flags=re.M)
    if heading is None:
        return parts[0]
    return next((part for part in parts[1:] if re.match(rf"{heading}\b", part)), None)


def listed_options(text):
    """Those of the items of lists; the synopsis alone would explain nothing."""
    return {"--" + name for line in re.findall(r"^\.It .*", text, re.M)
            for name in re.findall(r"Fl -([a-z][a-z-]*)", line)}


def check_manual(path, program, complain):
    text = Path(path).read_text()
    common = manual_section(text, None)

    def check(where, words, section):
        for option in words:
            if option not in listed_options(section):
                complain(f"{path.name}: {where} {option} is missing")

    check(program.name, options(program), common)
    for name in subcommands(program):
        section = manual_section(text, name)
        if section is None:
            complain(f"{path.name}: the subcommand {name} is missing")
            continue
        check(f"{program.name} {name}", options(program, name), section + common)
        for inner in subcommands(program, name):
            if not re.search(rf"^\.It Ic {inner}\b", section, re.M):
                complain(f"{path.name}: {name} {inner} is missing")
            check(f"{program.name} {name} {inner}", options(program, name, inner), section + common)
    for name in re.findall(r"^\.Ss ([a-z-]+)", text, re.M):
        if name not in subcommands(program):
            complain(f"{path.name}: the subcommand {name} does not exist")
    known = set(options(program))
    for name in subcommands(program):
        known.update(options(program, name))
        known.update(*(options(program, name, inner) for inner in subcommands(program, name)))
    for option in sorted(listed_options(text) - known):
        complain(f"{path.name}: the option {option} does not exist")


def bash_completes(file, words):
    """What bash offers for the last of `words`."""
    script = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ds4 "$1"; printf "%s\\n" "${COMPREPLY[@]}"'
    return set(output("bash", "-c", script, "bash", str(file), *map(str, words)).split())


def zsh_completes(folder, words):
    """What zsh offers: _describe and compadd are stood in for, the completion system needs a terminal."""
    script = r"""
        folder=$1; shift; words=("$@"); CURRENT=$#words
        _describe() { [[ $1 == -o ]] && shift; print -l -- ${${(P)${@[-1]}}%%:*} }
        compadd() { while [[ $1 != -- ]] shift; shift; print -l -- $@ }
        _files() { print FILES }
        source $folder/_ds4ctl"""
    return set(output("zsh", "-fc", script, "zsh", str(folder), *map(str, words)).split())


def check_completions(complete, shell, program, complain):
    offered = complete([program, ""])
    if offered != set(subcommands(program)):
        complain(f"{shell}: {program.name} <TAB> offers {sorted(offered)}")
    for name in subcommands(program):
        missing = set(options(program, name) + options(program)) - complete([program, name, "--"])
        if missing:
            complain(f"{shell}: {program.name} {name} -<TAB> does not offer {sorted(missing)}")
        inner = subcommands(program, name)
        if inner and complete([program, name, ""]) != set(inner):
            complain(f"{shell}: {program.name} {name} <TAB> does not offer {inner}")
        for word in inner:
            if not set(options(program, name, word)) <= complete([program, name, word, "--"]):
                complain(f"{shell}: {program.name} {name} {word} -<TAB> does not offer every option")
    if not set(options(program)) <= complete([program, "--"]):
        complain(f"{shell}: {program.name} -<TAB> does not offer every option")


def check_nodes(complete, shell, program, complain):
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as cluster:
        cluster.write('[nodes]\nalpha = "tcp://10.0.0.1:7341"\nbeta = "tcp://10.0.0.2:7341"\n')
        cluster.flush()
        offered = complete([program, "--cluster", cluster.name, "release", ""])
        if offered != {"alpha", "beta"}:
            complain(f"{shell}: {program.name} release <TAB> offers {sorted(offered)}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--man", type=Path, required=True)
    parser.add_argument("--completions", type=Path, required=True)
    parser.add_argument("ds4d", type=Path)
    parser.add_argument("ds4ctl", type=Path)
    parser.add_argument("ds4_eval", type=Path)
    arguments = parser.parse_args()
    os.environ["LC_ALL"] = "C.UTF-8"

    complaints = []
    checked = 0
    pages = {arguments.ds4d: "ds4d.8", arguments.ds4ctl: "ds4ctl.1", arguments.ds4_eval: "ds4-eval.1"}
    for program, page in pages.items():
        check_manual(arguments.man / page, program, complaints.append)
        checked += len(options(program)) + len(subcommands(program))
    shells = {"bash": lambda words: bash_completes(arguments.completions / "ds4ctl.bash", words)}
    if shutil.which("zsh"):
        shells["zsh"] = lambda words: zsh_completes(arguments.completions, words)
    else:
        print("zsh is not installed here: its completion was not tried")
    for shell, complete in shells.items():
        for program in (arguments.ds4ctl, arguments.ds4_eval):
            check_completions(complete, shell, program, complaints.append)
        check_nodes(complete, shell, arguments.ds4ctl, complaints.append)

    for complaint in complaints:
        print(complaint)
    if checked < 20:
        sys.exit(f"only {checked} options and subcommands were found in --help: has its form changed?")
    print(f"{len(complaints)} complaints; shells tried: {', '.join(shells)}")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
