#!/usr/bin/env bash
# Makes sure that the named programs are there, from the system's packages. Tests that need one that is missing are
# skipped, and say so. `scripts/test_programs.sh chromium skopeo containerd`
set -euo pipefail
is_there() {
  command -v "$1" >/dev/null && return
  [ "$1" = chromium ] && { command -v chromium-browser || command -v google-chrome; } >/dev/null
}
sudo=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null && sudo=(sudo -n)
fi
install() {
  if command -v apt-get >/dev/null; then
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq "$1" >/dev/null
  elif command -v dnf >/dev/null; then
    "${sudo[@]}" dnf install -y -q "$1"
  elif command -v pacman >/dev/null; then
    "${sudo[@]}" pacman -S --noconfirm "$1"
  elif command -v brew >/dev/null; then
    brew install --quiet "$1"
  fi
}
missing=()
for name in "$@"; do is_there "$name" || missing+=("$name"); done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "Installing for the tests: ${missing[*]} ..."
if command -v apt-get >/dev/null; then "${sudo[@]}" apt-get update -qq >/dev/null || true; fi
for name in "${missing[@]}"; do
  install "$name" || true
  is_there "$name" || echo "There is no $name: the tests that need it will be skipped. Install it and run make test again."
done
