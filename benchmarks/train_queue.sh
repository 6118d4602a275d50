#!/usr/bin/env bash
# The background trainings: `nohup setsid bash runs/queue.sh >/dev/null 2>&1 &` starts them, or goes on after a restart.
# It lies in runs/ with a checkout of its own (runs/src) beside it, so that nobody's edits change a training on its way.
cd "$(dirname "$0")" || exit 1
exec 9>queue.lock
flock -n 9 || { echo "the queue is running already: tail -f $PWD/queue.log"; exit 1; }
export PYTHONPATH=$PWD/src/src OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
for attempt in 1 2 3 4 5 6 7 8; do
  nice -n 19 ../.venv/bin/python src/benchmarks/train_queue.py --root "$PWD" run >>queue.out 2>&1 && exit 0
  echo "$(date '+%m-%d %H:%M:%S') the queue stopped (attempt $attempt); see queue.out" >>queue.log
  sleep 60
done
