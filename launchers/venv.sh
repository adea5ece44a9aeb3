# Sourced by launchers/quickstart, tests/run and .ci/run from the repository's root:
#   make_venv EXTRAS    .venv holds this package (editable) with these extras; costs 10 ms when it does already
# PYTHON chooses the interpreter. Downloads go where pip is configured to look.

make_venv() {
  local extras=$1 stamp=.venv/.pyfi-$1 want made
  want="$PWD $(cksum <pyproject.toml)"  # a moved or changed repository is installed again
  for made in .venv/.pyfi-*; do
    # what has more extras will do, and is not to be installed anew below those that use it
    [[ -x .venv/bin/python && -f $made && $(<"$made") == "$want" ]] && _has "${made#*.pyfi-}" "$extras" && return 0
  done

  if [[ ! -x .venv/bin/pip ]]; then
    local python
    python=$(_find_python) || return 1
    echo "- making .venv with $("$python" --version 2>&1)"
    "$python" -m venv --clear .venv >.venv.log 2>&1 || { _no_venv "$python"; return 1; }
    rm -f .venv.log
  fi
  if [[ ! -x .venv/bin/uv ]]; then
    echo "- installing uv, the fast installer"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check uv >.venv/install.log 2>&1 ||
      echo "  uv is not to be had here; pip does it, a little slower"
  fi
  echo "- installing pyfi_hpc [$extras] into .venv"
  local install=(.venv/bin/python -m pip install --disable-pip-version-check)
  if [[ -x .venv/bin/uv ]]; then
    _uv_looks_where_pip_looks
    install=(.venv/bin/uv pip install --python .venv/bin/python)
    # uv leaves byte code to the first import; where Python may not write it, each process would compile all it imports
    [[ ${PYTHONDONTWRITEBYTECODE:-} ]] && install+=(--compile-bytecode)
  fi
  # uv leaves a lock file in the folder for temporary files
  mkdir -p .venv/tmp
  if ! TMPDIR=$PWD/.venv/tmp "${install[@]}" --editable ".[$extras]" >.venv/install.log 2>&1; then
    echo "error: the installation failed; its last lines (all: .venv/install.log):" >&2
    tail -n 15 .venv/install.log | sed 's/^/  /' >&2
    return 1
  fi
  rm -rf .venv/tmp
  echo "$want" >"$stamp"
}

_has() {  # EXTRAS EXTRAS: whether the first are all of the second
  local one
  for one in ${2//,/ }; do
    [[ ,$1, == *",$one,"* ]] || return 1
  done
}

_find_python() {
  local python
  for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$python"
      return
    fi
  done
  echo "error: no Python 3.11 or newer; looked for ${PYTHON:-python3, python3.14 .. python3.11} on PATH" >&2
  echo "  fix: install one (Debian: apt-get install python3 python3-venv), load a module, or set PYTHON=..." >&2
  return 1
}

_no_venv() {
  echo "error: $1 cannot make a virtual environment:" >&2
  tail -n 5 .venv.log | sed 's/^/  /' >&2
  if ! "$1" -c 'import ensurepip' 2>/dev/null; then
    echo "  fix: it lacks the venv package (Debian: apt-get install python3-venv)" >&2
  fi
  rm -rf .venv .venv.log
}

# uv does not read pip's configuration. A site that gave pip an index, a folder of wheels or a certificate
# wants it used; what is set for uv already stays.
_uv_looks_where_pip_looks() {
  local config index extra links cert
  config=$(.venv/bin/python -m pip config list 2>/dev/null)  # the environment's lines come first, and win
  _pip_setting() { sed -n "s/^[^.]*\.$1='\(.*\)'\$/\1/p" <<<"$config" | head -n 1; }
  index=$(_pip_setting index-url) extra=$(_pip_setting extra-index-url)
  links=$(_pip_setting find-links) cert=$(_pip_setting cert)
  [[ -n $index ]] && export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
  # pip takes the best version of all indexes, uv by default that of the first one
  [[ -n $extra ]] && export UV_INDEX=${UV_INDEX:-$extra} UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match}
  [[ -n $links ]] && export UV_FIND_LINKS=${UV_FIND_LINKS:-$links}
  [[ -n $cert ]] && export SSL_CERT_FILE=${SSL_CERT_FILE:-$cert}
  return 0
}
