#!/bin/sh
# Installs modelshare from the platform @URL@, without root, into a virtual environment of its own; run again, it upgrades.
#
#   curl -fsSL @URL@/install.sh | sh                 the command line
#   curl -fsSL @URL@/install.sh | sh -s -- --agent   also what an agent needs to run models
#
# It uses uv if that is installed, else Python 3.11 or newer with venv and pip. Dependencies come from your package index,
# in the versions and with the SHA-256 digests that the platform was released with. The two files from the platform are compared
# with the digests in this script, so that a proxy, mirror or cache that changes one of them is noticed.
set -eu

url=@URL@
wheel=@WHEEL@
wheel_sha256=@WHEEL_SHA256@
client_sha256=@CLIENT_SHA256@
agent_sha256=@AGENT_SHA256@

usage() {
  cat <<'END'
Usage: install.sh [--agent] [--dir DIR] [--bin DIR]

  --agent    Install what `modelshare agent` needs, too.
  --dir DIR  The virtual environment. Default: ~/.local/share/modelshare.
  --bin DIR  Folder for a link to the program `modelshare`. Default: ~/.local/bin.
END
}

fail() {
  echo "Error: $*" >&2
  exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

suitable() { has "$1" && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if suitable "$name"; then
      echo "$name"
      return
    fi
  done
}

download() {
  if has curl; then
    curl -fsSL -o "$2" "$1"
  elif has wget; then
    wget -q -O "$2" "$1"
  elif [ -n "$python" ]; then
    "$python" -c 'import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])' "$1" "$2"
  else
    fail "curl or wget is needed to download files. Install one of them."
  fi || fail "$1 cannot be downloaded. Nothing was changed."
}

digest() {
  if has sha256sum; then
    sha256sum "$1"
  elif has shasum; then
    shasum -a 256 "$1"
  elif has openssl; then
    openssl dgst -r -sha256 "$1"
  else
    fail "sha256sum, shasum or openssl is needed to check files. Install one of them."
  fi
}

# get FILE SHA256: downloads it from the platform into $work.
get() {
  download "$url/dist/$1" "$work/$1"
  found=$(digest "$work/$1")
  [ "${found%% *}" = "$2" ] ||
    fail "$url/dist/$1 is not the file that this script belongs to: its SHA-256 is ${found%% *}, not $2. Nothing was" \
      "changed. If the platform has just been upgraded, run this again; if not, something on the way changes files."
}

pip_install() { "$dir/bin/python" -m pip --quiet --disable-pip-version-check install "$@"; }

install_files() {
  umask 022 # a service reads what root installs
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  trap 'exit 1' HUP INT TERM
  get "$wheel" "$wheel_sha256"
  get "requirements-$kind.txt" "$requirements_sha256"
  # The last line names the wheel by its URL; it is here already.
  sed '/^modelshare @ /d' "$work/requirements-$kind.txt" >"$work/dependencies.txt"

  mkdir -p "$dir"
  echo "$kind incomplete" >"$dir/.modelshare"
  if has uv; then
    # A Python that uv has to fetch lies beside the environment, where other users of the machine can read it.
    export UV_PYTHON_INSTALL_DIR="$dir/python"
    [ -x "$dir/bin/python" ] || uv venv --quiet --allow-existing --python '>=3.11' "$dir"
    uv pip install --quiet --python "$dir/bin/python" --require-hashes -r "$work/dependencies.txt"
    uv pip install --quiet --python "$dir/bin/python" --no-deps --reinstall "$work/$wheel"
  else
    "$python" -m venv "$dir"
    pip_install --require-hashes -r "$work/dependencies.txt"
    pip_install --no-deps --force-reinstall "$work/$wheel"
  fi
  echo "$this" >"$dir/.modelshare"
}

main() {
  kind=client
  dir=
  bin=
  while [ $# -gt 0 ]; do
    case $1 in
      --agent) kind=agent ;;
      --dir)
        dir=${2:?--dir needs a folder}
        shift
        ;;
      --bin)
        bin=${2:?--bin needs a folder}
        shift
        ;;
      -h | --help)
        usage
        exit
        ;;
      *) fail "There is no option $1. --help lists the options." ;;
    esac
    shift
  done
  dir=${dir:-${HOME:?}/.local/share/modelshare}
  bin=${bin:-${HOME:?}/.local/bin}
  case $dir in /*) ;; *) dir=$PWD/$dir ;; esac
  case $bin in /*) ;; *) bin=$PWD/$bin ;; esac
  link=$bin/modelshare

  python=$(find_python)
  [ -n "$python" ] || has uv ||
    fail "Python 3.11 or newer is needed, or uv, which brings one: https://docs.astral.sh/uv. Install one of them."
  if [ -e "$dir" ] && [ ! -e "$dir/pyvenv.cfg" ] && [ ! -e "$dir/.modelshare" ] && [ -n "$(ls -A "$dir")" ]; then
    fail "$dir exists and is not a virtual environment. Name another folder with --dir."
  fi
  if [ -d "$link" ] || { [ -e "$link" ] && [ ! -L "$link" ]; }; then
    fail "$link exists and is not a link to a program. Move it away, or name another folder with --bin."
  fi

  installed=$(cat "$dir/.modelshare" 2>/dev/null) || installed=
  case $installed in
    agent*) kind=agent ;; # an upgrade keeps what was chosen before
  esac
  case $kind in
    agent) requirements_sha256=$agent_sha256 ;;
    client) requirements_sha256=$client_sha256 ;;
  esac
  this="$kind $wheel_sha256 $requirements_sha256"
  if [ "$installed" != "$this" ] || ! "$dir/bin/modelshare" --version >/dev/null 2>&1; then
    install_files
  fi
  mkdir -p "$bin"
  ln -sf "$dir/bin/modelshare" "$link"

  echo "$("$link" --version) is installed in $dir."
  case :$PATH: in
    *":$bin:"*) ;;
    *) echo "$bin is not on your PATH. Add it, also to your shell's profile: export PATH=\"$bin:\$PATH\"" ;;
  esac
  echo "Next: modelshare login --url $url"
}

main "$@"
