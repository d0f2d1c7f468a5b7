#!/usr/bin/env bash
# Debian or RPM packages of this tree, checked.
set -euo pipefail

usage() {
  cat <<'END'
usage: packaging/build.sh [--cuda] [--out FOLDER] deb|rpm

Installs the Debian packages that are missing (asks before using sudo), builds what the packages ship, and
makes the packages in FOLDER (default: build/packages). lintian or rpmlint then checks them.

  --cuda   ds4d-cuda too; needs the CUDA toolkit
  --out    where the packages go; other files there are left alone
  --help   this text

deb packages are for the Debian release this runs on. rpm packages are built against this machine's
libraries and need the same versions where they are installed; build them on the distribution that they
are for. DEBEMAIL and DEBFULLNAME name the maintainer of either.

Exit status: 0 packages made and checked, 1 something failed, 2 malformed command line.
END
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=packaging/dependencies.sh
source packaging/dependencies.sh

kind='' out=build/packages cuda=OFF
while (($#)); do
  case $1 in
    deb | rpm) kind=$1 ;;
    --cuda) cuda=ON ;;
    --out) out=${2:?--out needs a folder} && shift ;;
    --help | -h) usage && exit ;;
    *)
      printf 'build.sh: unknown argument %s\n\n' "$1" >&2
      usage >&2
      exit 2
      ;;
  esac
  shift
done
[[ -n $kind ]] || { usage >&2 && exit 2; }

readonly build=$PWD/build/package-$kind
mkdir -p "$out"
out=$(realpath "$out")

ds4_install_packages "${ds4_build_packages[@]}" "${ds4_package_packages[@]}"

# What Debian builds its own packages with: hardening, and no path of this machine in what is shipped.
export DEB_BUILD_MAINT_OPTIONS='hardening=+all' DEB_CFLAGS_STRIP=-g DEB_CXXFLAGS_STRIP=-g
flags=$(dpkg-buildflags --get CPPFLAGS)
arguments=(
  "-DDS4_TESTS=OFF" "-DDS4_BENCHMARKS=OFF" "-DDS4_CUDA=$cuda" "-DDS4_PACKAGES=$kind"
  "-DCMAKE_INSTALL_PREFIX=/usr"
  "-DCMAKE_C_FLAGS=$(dpkg-buildflags --get CFLAGS) $flags"
  "-DCMAKE_CXX_FLAGS=$(dpkg-buildflags --get CXXFLAGS) $flags"
  "-DCMAKE_EXE_LINKER_FLAGS=$(dpkg-buildflags --get LDFLAGS)"
  "-DCMAKE_SHARED_LINKER_FLAGS=$(dpkg-buildflags --get LDFLAGS)"
)
[[ -z ${DEBEMAIL-} ]] || arguments+=("-DDS4_PACKAGER=${DEBFULLNAME:-$DEBEMAIL} <$DEBEMAIL>")
if [[ $kind == rpm ]]; then
  python=$(python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  arguments+=("-DCMAKE_INSTALL_LIBDIR=lib64" "-DCMAKE_INSTALL_SO_NO_EXE=OFF" "-DDS4_PYTHON_DIR=lib/$python/site-packages")
fi
cmake --preset release -B "$build" "${arguments[@]}"
cmake --build "$build"

rm -rf "$build/packages"
cpack --config "$build/CPackConfig.cmake" -B "$build/packages" || {
  cat "$build"/packages/_CPack_Packages/*/*/*/*.err >&2 2>/dev/null
  ds4_die 'cpack failed'
}
case $kind in
  deb) lintian --fail-on error,warning --info --tag-display-limit 0 --profile debian "$build"/packages/*.deb ;;
  rpm) rpmlint --config packaging/rpm/rpmlint.toml "$build"/packages/*.rpm ;;
esac
cp "$build"/packages/*."$kind" "$out"
printf '\n'
ls -l "$out"/*."$kind"
