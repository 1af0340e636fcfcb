#!/usr/bin/env bash
# Makes sure that the named programs are there, from the system's packages. Tests that need one that is missing are
# skipped, and say so. `scripts/test_programs.sh chromium skopeo containerd`
set -euo pipefail
sudo=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null && sudo=(sudo -n)
fi
browsers="chromium-headless-shell chromium chromium-browser google-chrome"
has_package() {
  command -v apt-get >/dev/null || return 1
  compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || "${sudo[@]}" apt-get update -qq >/dev/null || true
  apt-cache show "$1" >/dev/null 2>&1
}
# Chromium's headless shell needs half of what the whole browser does.
has_better() {
  [ "$1" = chromium ] && ! command -v chromium-headless-shell >/dev/null && has_package chromium-headless-shell
}
is_there() {
  [ "$1" != chromium ] && { command -v "$1" >/dev/null; return; }
  for browser in $browsers; do command -v "$browser" >/dev/null && return; done
  return 1
}
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
for name in "$@"; do { is_there "$name" && ! has_better "$name"; } || missing+=("$name"); done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "Installing for the tests: ${missing[*]} ..."
if command -v apt-get >/dev/null; then "${sudo[@]}" apt-get update -qq >/dev/null || true; fi
for name in "${missing[@]}"; do
  case "$name" in
    chromium) install chromium-headless-shell 2>/dev/null || install chromium || true ;;
    *) install "$name" || true ;;
  esac
  is_there "$name" || echo "There is no $name: the tests that need it will be skipped. Install it and run make test again."
done
