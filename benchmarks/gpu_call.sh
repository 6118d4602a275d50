#!/usr/bin/env bash
# One call to a lent GPU (see gpu_queue.py): `begin SECONDS PLANNED` starts a plan of so many seconds and waits for some
# of them; `more SECONDS [--last]` goes on.
set -u
S=/tmp/bowerbird
HERE=$(cd "$(dirname "$0")/.." && pwd)  # the code that runs; runs/, with the data, is in the folder of the call
export PYTHONUNBUFFERED=1 PYTHONPATH=/tmp/site:$S/src
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True OMP_NUM_THREADS=2 TOKENIZERS_PARALLELISM=false
if [ "$1" = begin ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target /tmp/site runs/wheels/*.whl || exit 1
  mkdir -p $S/runs/queue $S/runs/start && cp -r runs/data $S/runs/
  [ -d runs/queue/autoencoder-8/model ] && cp -r runs/queue/autoencoder-8/model $S/runs/start/autoencoder-8
  [ "$(df --output=avail /dev/shm | tail -1)" -gt 8000000 ] || mount -o remount,size=48G /dev/shm || mount -t tmpfs -o size=48G tmpfs /dev/shm
  cp -r "$HERE/src" "$HERE/benchmarks" $S/
  df -h /dev/shm | tail -1; free -g | head -2
  nvidia-smi --query-gpu=name,memory.total --format=csv,noheader; nproc
  (cd $S && nohup setsid python3 benchmarks/gpu_queue.py --root $S/runs schedule --seconds "$3" >$S/out.log 2>&1 &)
  set -- "$1" "$2"
fi
cp -r "$HERE/src" "$HERE/benchmarks" $S/
cd $S && timeout $(($2 + 20)) python3 benchmarks/gpu_queue.py --root $S/runs watch --seconds "$2" ${3:-} --out "$OUT"
grep -aE "Error|error:|Traceback" $S/out.log | sort | uniq -c | sort -rn | head -12
cp $S/out.log "$OUT/out.log"
