#!/bin/sh
# Runs a command with a display: the one there is, else a virtual one.
#   with_display.sh COMMAND …             the real display if there is one
#   with_display.sh --virtual COMMAND …   always a virtual one
#   with_display.sh --packages-only       only see to it that a virtual one can be started
# On Debian and Ubuntu, as root, it installs what a virtual display needs; otherwise it names the packages.
set -eu

PACKAGES="xvfb xauth libegl1 libgl1 libgl1-mesa-dri libopengl0 libdbus-1-3 libxkbcommon-x11-0 libxcb-cursor0
  libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-render-util0 libxcb-shape0 libxcb-xinerama0"

ensure_packages() {
  [ "$(uname -s)" = Linux ] || return 0
  command -v dpkg-query >/dev/null 2>&1 || {
    command -v Xvfb >/dev/null 2>&1 || echo "No display and no Xvfb: install Xvfb and Mesa's OpenGL with your package manager." >&2
    return 0
  }
  missing=""
  for package in $PACKAGES; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" = 0 ]; then
    echo "Installing the packages that a virtual display needs:$missing" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null
  else
    echo "A virtual display needs these packages: sudo apt-get install$missing" >&2
    exit 1
  fi
}

case "${1:-}" in
  --packages-only)
    [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] || ensure_packages
    ;;
  --virtual)
    shift
    ensure_packages
    exec xvfb-run -a -s "-screen 0 1366x768x24" "$@"
    ;;
  *)
    if [ "$(uname -s)" != Linux ] || [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
      exec "$@"
    fi
    ensure_packages
    exec xvfb-run -a -s "-screen 0 1366x768x24" "$@" --walk
    ;;
esac
