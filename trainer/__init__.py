"""Text in, a language model out: tokenizer, loader, model, pretraining, checkpoints, evaluation, chat."""
