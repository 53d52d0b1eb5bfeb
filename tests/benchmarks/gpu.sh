#!/usr/bin/env bash
# Everything that a GPU is asked for, in one go and one file: tests/benchmarks/gpu.sh OUT writes OUT/gpu.json.
#
# Parts run one after the other, the most valuable first, each for so many seconds at most, and all together for TOTAL:
# less than eight minutes. Benchmarks save what they have after each run, and gpu.json is written anew after each part, and
# every ten seconds (EVERY) while one runs: so a part that fails, or is stopped, or the end of this script, whoever ends it,
# loses nothing of the others, and little of its own. Limits are those of a card beside a slow processor, on which a process
# takes 15 to 20 seconds to start: so steps of all contenders are one part, and all that is compiled is another. A part
# begins only where half of its limit is left. There the last two find less, and want a call of their own, which needs
# nothing of the first:
#
#     PARTS="step sampling quickstart suite loss" tests/benchmarks/gpu.sh OUT
#     PARTS="compiled tests" TOTAL=300 tests/benchmarks/gpu.sh OTHER
#
# Of a machine that is lent by the second, TOTAL is what is left when it is ready, less 30 to begin and to bring the report
# back; the second call follows at once, on the same machine.
#
# What parts say is in OUT/gpu.log, all of their figures in OUT/figures.json, tables of where a step's time goes in
# OUT/profile. All else that they write is thrown away. LIMITS="quickstart=150 suite=90" are other limits.
#
# PARTS names those that shall run, of those below, in the order in which they stand there. DEVICE=cpu and the sizes below
# make a trial of the script itself out of it. STEP, SAMPLING, LOSS and SUITE are options of the scripts; QUICKSTART is a
# recipe.
#
# A bare machine needs torch, transformers and accelerate with what these bring, pytest, and the packages of gpu-wheels.txt.
# Where it reaches no registry, carry wheels, here for Python 3.12 on x86-64 (5 MB):
#
#     pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#         --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
#         -c constraints.txt -r tests/benchmarks/gpu-wheels.txt -d .whl
#     pip install -q --no-index --no-deps --no-compile --upgrade --target /tmp/site .whl/*.whl    # there
#     PYTHONPATH=/tmp/site tests/benchmarks/gpu.sh OUT
set -uo pipefail
out="$(mkdir -p "$1" && cd "$1" && pwd)"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

device="${DEVICE:-cuda}"
python="${PYTHON:-python3}"
read -r -a step <<<"${STEP:---rows 8 --tokens 1024 --steps 32}"
read -r -a sampling <<<"${SAMPLING:---texts 4096 --repeats 3 --promise 42}"
read -r -a loss <<<"${LOSS:---rows 8 --tokens 1024 --repeats 3}"
read -r -a suite <<<"${SUITE:-}"
quickstart="${QUICKSTART:-quickstart}"
benchmarks=tests/benchmarks

parts="${PARTS:-step sampling quickstart suite loss compiled tests}"
declare -A limit=([step]=105 [sampling]=75 [quickstart]=130 [suite]=200 [loss]=80 [compiled]=180 [tests]=120)
for given in ${LIMITS:-}; do
    limit[${given%%=*}]="${given#*=}"
done

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
: >"$out/gpu.log"
deadline=$((SECONDS + ${TOTAL:-470}))

report() { "$python" $benchmarks/gpu_report.py "$work" "$out" || note "the report could not be written"; }

note() { echo "[$(date +%T)] $*" | tee -a "$out/gpu.log" >&2; }

# part NAME COMMAND...: runs it, where it was asked for, and writes the report.
part() {
    local name="$1" seconds start running code
    shift
    [[ " $parts " == *" $name "* ]] || return 0
    seconds=$((deadline - SECONDS < limit[$name] ? deadline - SECONDS : limit[$name]))
    if ((seconds <= 0 || 2 * seconds < limit[$name])); then
        note "$name: no time left, not half of its ${limit[$name]} s"
        return 0
    fi
    note "$name: at most $seconds s"
    start="$(date +%s.%N)"
    timeout --kill-after=3 "$seconds" "$@" >>"$out/gpu.log" 2>&1 </dev/null &
    running=$!
    until timeout "${EVERY:-10}" tail --pid="$running" --sleep-interval=0.1 -f /dev/null >/dev/null 2>&1; do
        report
    done
    wait "$running"
    code=$?
    echo "$code $start $(date +%s.%N)" >"$work/$name.ended"
    ((code == 0)) || note "$name: exit code $code; see gpu.log"
    report
}

# part_step NAME OPTIONS...: a part of step.py; --contenders in STEP comes last, and so decides.
part_step() {
    part "$1" "$python" $benchmarks/step.py --together --repeats 1 --device "$device" --dtype bfloat16 --save "$work/$1.json" \
        "${@:2}" "${step[@]}"
}

part_step step --profile "$out/profile" --contenders ours_two_view_augment ours_forward_kl gkd_forward_kl trl_chunked \
    ours_jsd gkd_jsd
part sampling "$python" $benchmarks/sampling.py --device "$device" --save "$work/sampling.json" "${sampling[@]}"
part quickstart "$python" $benchmarks/quickstart.py --save "$work/quickstart.json" --config "$quickstart" \
    --output_dir "$work/quickstart"
part suite "$python" $benchmarks/suite.py --device "$device" --save "$work/suite.json" "${suite[@]}"
part loss "$python" $benchmarks/loss.py --together --device "$device" --dtype bfloat16 --save "$work/loss.json" --contenders \
    ours_two_view ours_forward_kl ours_jsd gkd_forward_kl gkd_jsd trl_chunked naive_two_view ours naive \
    liger_own_chunks "${loss[@]}"
# Of what was compiled just now, graphs find the binaries of equal kernels again.
part_step compiled --compile --contenders ours_forward_kl ours_forward_kl_graphs ours_two_view_augment \
    ours_two_view_augment_graphs
# Most tests wait for Triton, which compiles on one core. Warnings are no errors here: they are those of other versions than
# the pinned ones.
mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.gpu\b' tests)
part tests "$python" -m pytest -v -p no:benchmark -p no:cacheprovider -o addopts=--import-mode=importlib \
    -o filterwarnings=default -n 16 --dist load -m gpu --continue-on-collection-errors "${files[@]}"
cat "$out/gpu.json"
