#!/usr/bin/env bash
# Everything that a GPU is asked for, in one go and one file: tests/benchmarks/gpu.sh OUT writes OUT/gpu.json.
#
# A bare machine is enough: torch, transformers, accelerate and what the package itself needs. TRL is measured where it
# is installed. What fails is left out of the file, and says why in OUT/*.log. DEVICE=cpu and the sizes below make a trial
# of the script itself out of it.
set -uo pipefail
out="$(mkdir -p "$1" && cd "$1" && pwd)"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH="$PWD" TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

device="${DEVICE:-cuda}"
python="${PYTHON:-python3}"
read -r -a step <<<"${STEP:---rows 8 --tokens 1024 --steps 8}"
read -r -a sampling <<<"${SAMPLING:---texts 4096 --batch_size 4096}"
quickstart="${QUICKSTART:-quickstart}"
benchmarks=tests/benchmarks

note() { echo "[$(date +%T)] $*" >&2; }

note "the card's matrix rate"
rate="$("$python" $benchmarks/gpu_report.py --matrix_rate --device "$device" 2>"$out/rate.log")" || rate=
note "matrix rate: ${rate:-unknown}"
[ -n "$rate" ] && step+=(--peak-tflops "$rate")

if [ "$device" = cuda ]; then
    note "tests that need a GPU"
    "$python" -m pytest -q -p no:benchmark -o addopts=--import-mode=importlib -n 8 --dist load -m gpu \
        tests/objective tests/models >"$out/tests.log" 2>&1 || note "some failed; see tests.log"
fi
ours=(ours_forward_kl ours_jsd ours_two_view_augment)
for compiled in "" --compile; do
    peers=(gkd_forward_kl gkd_jsd trl_chunked)
    [ -n "$compiled" ] && peers=()
    note "the step ${compiled:-as it is}"
    # shellcheck disable=SC2086  # an empty word is no option
    "$python" $benchmarks/step.py --json --repeats 1 --device "$device" --dtype bfloat16 "${step[@]}" $compiled \
        --contenders "${ours[@]}" "${peers[@]}" \
        >"$out/step$compiled.json" 2>"$out/step$compiled.log" || note "failed; see step$compiled.log"
done
note "sampling"
"$python" $benchmarks/sampling.py --json --device "$device" "${sampling[@]}" \
    >"$out/sampling.json" 2>"$out/sampling.log" || note "failed; see sampling.log"
note "the quickstart"
start="$(date +%s.%N)"
if "$python" distill/train.py --config "$quickstart" --output_dir "$out/quickstart" >"$out/quickstart.log" 2>&1; then
    echo "$start $(date +%s.%N)" >"$out/quickstart.seconds"
else
    note "failed; see quickstart.log"
fi
"$python" $benchmarks/gpu_report.py "$out" && note "written: $out/gpu.json"
