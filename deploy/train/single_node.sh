#!/bin/sh
# One machine: deploy/train/single_node.sh --shards SHARDS --out RUN
# A process a GPU, or a core; PROCESSES says otherwise. The same line again goes on after anything.
exec torchrun --standalone --nproc-per-node "${PROCESSES:-auto}" --max-restarts "${RESTARTS:-3}" \
    -m trainer.pretrain "$@"
