#!/bin/bash
# install_gpu.sh [--apex] [--dry-run] VENV
# Puts torch for CUDA, this package and TransformerEngine into a plain virtual environment, which it makes when it is not
# there; with --apex also apex, built from source. Needs Python 3.11 or 3.12, git, a C++17 compiler and 20 GB; apex also needs nvcc
# of torch's CUDA version. No GPU is needed. --dry-run prints the commands and runs none.
# PYTHON=/path/to/python names the interpreter; MAX_JOBS=N the compilers that run at once.
set -euo pipefail

TORCH=2.11.0
TRANSFORMER_ENGINE=2.11.0
APEX=25.09

die() {
    echo "install_gpu.sh: $1" >&2
    exit 2
}

run() {
    printf '+ %s\n' "${*@Q}"
    [ "$dry" = 1 ] || "$@"
}

dry=0 apex=0 venv=
for word in "$@"; do
    case $word in
        --dry-run) dry=1 ;;
        --apex) apex=1 ;;
        -*) die "no option $word; known: --apex, --dry-run" ;;
        *) [ -z "$venv" ] || die "one VENV, not also $word"; venv=$word ;;
    esac
done
[ -n "$venv" ] || die "which VENV?"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=$venv/bin/python
command -v c++ >/dev/null || die "no C++ compiler (c++): install one (Debian: apt-get install build-essential)"
if [ "$apex" = 1 ] && [ "$dry" = 0 ]; then
    command -v nvcc >/dev/null || die "apex is built by nvcc, which is not in PATH: load CUDA, or leave --apex out"
fi
export MAX_JOBS=${MAX_JOBS:-4}

[ -x "$python" ] || run "${PYTHON:-python3}" -m venv "$venv"
pip=("$python" -m pip install --disable-pip-version-check)
run "${pip[@]}" "torch==$TORCH" setuptools==80.9.0 wheel==0.45.1 ninja packaging pybind11
if [ "$dry" = 0 ]; then
    pins=$(mktemp)
    trap 'rm -f "$pins"' EXIT
    "$python" "$here/launch/containers/missing_pins.py" "$here/constraints.txt" >"$pins"
else
    pins=PINS
fi
run "${pip[@]}" --no-build-isolation -c "$pins" -e "${here}[data]"

# The extension for torch is built here, against the CUDA headers that torch's own wheels bring.
cuda=13
if [ "$dry" = 0 ]; then
    cuda=$("$python" -c 'import torch; print((torch.version.cuda or "").partition(".")[0])')
    [ -n "$cuda" ] || die "torch in $venv is a build without CUDA"
    headers=$("$python" -c 'import glob, sysconfig
print(":".join(sorted(glob.glob(sysconfig.get_path("purelib") + "/nvidia/*/include"))))')
    export CPLUS_INCLUDE_PATH=$headers${CPLUS_INCLUDE_PATH:+:$CPLUS_INCLUDE_PATH}
fi
export NVTE_FRAMEWORK=pytorch
run "${pip[@]}" "transformer-engine-cu$cuda==$TRANSFORMER_ENGINE" "transformer-engine==$TRANSFORMER_ENGINE"
run "${pip[@]}" einops onnx onnxscript nvdlfw-inspect
run "${pip[@]}" --no-build-isolation --no-deps "transformer-engine-torch==$TRANSFORMER_ENGINE"

if [ "$apex" = 1 ]; then
    export APEX_CPP_EXT=1 APEX_CUDA_EXT=1
    run "${pip[@]}" --no-build-isolation "apex @ git+https://github.com/NVIDIA/apex@$APEX"
fi
run "$python" "$here/launch/containers/check_gpu_software.py"
echo "done: $venv"
