#!/usr/bin/env bash
# Makes sure that there is a Chromium for the browser tests, from the system's packages. Without one they are skipped, and say so.
set -euo pipefail
for name in chromium chromium-browser google-chrome; do
  if command -v "$name" >/dev/null; then exit 0; fi
done
sudo=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null && sudo=(sudo -n)
fi
echo "Installing Chromium for the browser tests ..."
if command -v apt-get >/dev/null; then
  { "${sudo[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq chromium; } >/dev/null ||
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq chromium >/dev/null || true
elif command -v dnf >/dev/null; then
  "${sudo[@]}" dnf install -y -q chromium || true
elif command -v pacman >/dev/null; then
  "${sudo[@]}" pacman -S --noconfirm chromium || true
elif command -v brew >/dev/null; then
  brew install --quiet --cask chromium || true
fi
command -v chromium >/dev/null || command -v chromium-browser >/dev/null ||
  echo "There is no Chromium: the browser tests will be skipped. Install it and run make test again."
