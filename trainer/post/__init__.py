"""After pretraining: conversations, the chat template, questions from documents."""
