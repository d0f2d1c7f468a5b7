#!/bin/bash
# usage: tests/packaging/rpm.sh
#
# Builds the .rpm packages, says what is in them, and has rpm install, upgrade and erase them in a booted system.
# That system is Debian's, whose libraries they were built against: files, scripts and the service are seen, but
# not whether another distribution's packages have the names that these ask for (rpm --nodeps). Needs what
# run.sh needs. Exit status: 0 all steps passed, 1 one did not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packaging/build.sh --out "$work/deb" deb
packaging/build.sh --out "$work/1" rpm
# The same as a later release, to upgrade to.
cpack --config build/package-rpm/CPackConfig.cmake -B "$work/cpack" -D CPACK_RPM_PACKAGE_RELEASE=2
for package in "$work"/1/*.rpm; do
  printf '\n#### %s\n' "${package##*/}"
  rpm -qp --requires "$package" | grep -v '^rpmlib(' | sed 's/^/  requires /'
  rpm -qp --configfiles "$package" | sed 's/^/  configuration /'
  rpm -qp --scripts "$package" | grep -E '^(pre|post)' | sed 's/^/  script /' || true
done
printf '\n#### rpm\n'
cat tests/packaging/boot/{lib,rpm}.sh >"$work/script"
BOOT_PACKAGES=rpm tests/packaging/boot-test.sh "$work"/deb/ds4d_*.deb "$work"/1/{ds4d,libds4client}-[0-9]*.rpm \
  "$work"/cpack/ds4d-[0-9]*-2.*.rpm "$work/script"
