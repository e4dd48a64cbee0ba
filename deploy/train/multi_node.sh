#!/bin/sh
# Several machines: NODES=2 HEAD=first.machine deploy/train/multi_node.sh --shards SHARDS --out RUN
# The same line on each of them; port 29400 of HEAD is open to all, and so is the disk that holds SHARDS and RUN.
: "${NODES:?how many machines}" "${HEAD:?address of one of them}"
exec torchrun --nnodes "$NODES" --nproc-per-node "${PROCESSES:-auto}" --max-restarts "${RESTARTS:-3}" \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:${PORT:-29400}" --rdzv-id "${RUN_ID:-tinylm}" \
    -m trainer.pretrain "$@"
