import itertools
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.architectures import CHOICES
from tinylm.errors import ConfigError
from trainer.config import ModelConfig, SamplingConfig
from trainer.generate import Generator, NGrams, TextStream, sample, stream
from trainer.model.decoder import Decoder
from trainer.model.model import GPT, KVCache
from trainer.post.chat import ConversationError, render_prompt
from trainer.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["der Käse — 日本語のテキスト, and some words of a text "] * 3, 300)
CONTEXT = 32


@pytest.fixture(scope="module")
def generator():
    """A model with weights large enough that its next tokens are not all alike."""
    torch.manual_seed(1)
    config = ModelConfig(
        vocab_size=TOKENIZER.vocab_size, sequence_len=CONTEXT, width=32, layers=2, heads=4, kv_heads=2
    )
    model = GPT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return Generator(model, TOKENIZER)


def take(generator, ids, count, **sampling):
    """`count` tokens at most, none of which ends the text."""
    return list(generator.tokens(ids, SamplingConfig(max_tokens=count, **sampling), ends=()))


def test_the_cache_changes_nothing(generator):
    prompt = TOKENIZER.encode("some words")
    with_cache = take(generator, prompt, CONTEXT - len(prompt), temperature=0)
    ids = list(prompt)
    forbidden = torch.tensor([TOKENIZER.endoftext, TOKENIZER.im_start, TOKENIZER.im_end])
    for _ in with_cache:
        with torch.no_grad():
            logits = generator.model(torch.tensor([ids]))[0, -1]
        ids.append(int(logits.index_fill(0, forbidden, -torch.inf).argmax()))
    assert ids[len(prompt) :] == with_cache
    assert len(set(with_cache)) > 3


def test_past_the_context_the_newer_half_goes_on(generator):
    prompt = TOKENIZER.encode("some words")
    tokens = take(generator, prompt, 3 * CONTEXT, temperature=0)
    assert len(tokens) == 3 * CONTEXT
    seen = (prompt + tokens)[: CONTEXT + 1]
    assert take(generator, seen[-(CONTEXT // 2) :], 8, temperature=0) == tokens[len(seen) - len(prompt) :][:8]


def test_a_prompt_longer_than_the_context_is_seen_from_its_end(generator):
    ids = TOKENIZER.encode("some words of a text " * 30)
    assert len(ids) > CONTEXT
    assert take(generator, ids, 1, temperature=0) == take(generator, ids[-CONTEXT:], 1, temperature=0)


def test_the_same_seed_gives_the_same_text(generator):
    texts = ["".join(generator.complete("a text", seed=seed, temperature=1.5)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    unseeded = {"".join(generator.complete("a text", temperature=1.5)) for _ in range(3)}
    assert len(unseeded) == 3


def test_zero_temperature_takes_the_likeliest_token_as_top_k_of_one_does(generator):
    greedy = "".join(generator.complete("a text", temperature=0))
    assert greedy == "".join(generator.complete("a text", top_k=1, temperature=2.0))


def test_at_most_max_tokens_are_generated(generator):
    assert len(take(generator, [1], 5)) == 5


def test_no_special_token_comes_but_the_one_that_ends_the_text(generator):
    specials = {TOKENIZER.endoftext, TOKENIZER.im_start, TOKENIZER.im_end}
    everything = SamplingConfig(max_tokens=2000, temperature=50.0, top_k=0, seed=0)
    tokens = list(generator.tokens([1], everything, ends=()))
    assert specials.isdisjoint(tokens)
    assert len(set(tokens)) > 0.9 * (TOKENIZER.vocab_size - len(specials))
    ended = list(generator.tokens([1], everything, ends=(TOKENIZER.endoftext,)))
    assert len(ended) < 2000
    assert specials.isdisjoint(ended)


def test_ids_that_the_tokenizer_does_not_have_never_come():
    torch.manual_seed(0)
    model = GPT(
        ModelConfig(vocab_size=TOKENIZER.vocab_size + 500, width=32, layers=1, heads=2, sequence_len=16)
    )
    tokens = take(Generator(model, TOKENIZER), [1], 100, temperature=50.0, top_k=0)
    assert max(tokens) < TOKENIZER.vocab_size


def test_a_chat_stops_at_the_end_of_the_message(generator):
    greedy = take(generator, render_prompt([{"role": "user", "content": "a"}], TOKENIZER), 40, temperature=0)
    model = GPT(generator.model.config)
    model.load_state_dict(generator.model.state_dict())
    with torch.no_grad():
        # What this model would have said fourth now is the end of the message, and the other way round.
        pair = [greedy[3], TOKENIZER.im_end]
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        model.lm_head.weight[pair] = model.lm_head.weight[pair[::-1]].clone()
    changed = Generator(model, TOKENIZER)
    first = greedy.index(greedy[3])
    text = "".join(changed.chat([{"role": "user", "content": "a"}], max_tokens=40, temperature=0))
    assert text == TOKENIZER.decode_bytes(greedy[:first]).decode(errors="ignore")


def test_old_turns_are_forgotten_to_make_room_and_the_system_message_is_not(generator):
    system = {"role": "system", "content": "a"}
    turns = [
        {"role": role, "content": f"{number} words"} for number in range(8) for role in ("user", "assistant")
    ]
    last = {"role": "user", "content": "text"}
    kept = generator._fitting_prompt([system, *turns, last], max_tokens=8)
    assert len(kept) <= CONTEXT - 8 or kept == render_prompt([system, last], TOKENIZER)
    assert kept[: len(kept)] != render_prompt([system, *turns, last], TOKENIZER)
    assert kept[:5] == render_prompt([system, last], TOKENIZER)[:5]
    assert "".join(generator.chat([system, *turns, last], max_tokens=4)) is not None


def test_a_chat_that_cannot_be_answered_is_refused(generator):
    with pytest.raises(ConversationError, match="this model sees 32 at once"):
        generator.chat([{"role": "user", "content": "many words " * 50}])
    with pytest.raises(ConversationError, match=r"messages\[-1\]\.role: expected 'user'"):
        generator.chat([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("temperature", value) for value in (-1, math.inf, math.nan, 101, "1", True)),
        *(("top_p", value) for value in (0, 1.1, math.nan)),
        *(("min_p", value) for value in (2, math.nan)),
        *((name, value) for name in ("top_k", "speculate", "seed") for value in (-1, 0.5, 10**20)),
        *(("max_tokens", value) for value in (0, 2.5, math.inf, None)),
        *(("stop", value) for value in (("",), "", (1,))),
    ],
)
def test_an_impossible_setting_is_named_before_anything_is_generated(generator, field, value):
    with pytest.raises(ConfigError, match=f"^{field} = "):
        generator.complete("a text", **{field: value})


def test_a_temperature_next_to_nothing_is_none(generator):
    greedy = take(generator, [1, 2], 20, temperature=0)
    for least in (1e-40, 1e-300, 1e-9):
        assert take(generator, [1, 2], 20, temperature=least, top_k=0) == greedy
    hottest = take(generator, [1, 2], 20, temperature=100, top_k=0, top_p=1e-50, seed=2**63 - 1)
    assert hottest == greedy


def test_one_prompt_may_be_given_alone(generator):
    assert generator.complete_all("ab", max_tokens=9, seed=1) == generator.complete_all(
        ["ab"], max_tokens=9, seed=1
    )


def test_one_stop_string_may_be_given_alone(generator):
    text = "".join(generator.complete("a text", max_tokens=40, seed=0))
    stop = text[10:12]
    assert "".join(generator.complete("a text", max_tokens=40, seed=0, stop=stop)) == text[: text.index(stop)]


LOGITS = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625]).log()


@pytest.mark.parametrize(
    ("settings", "possible"),
    [
        ({"top_k": 0}, {0, 1, 2, 3, 4}),
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.5}, {0}),
        ({"top_p": 0.8}, {0, 1, 2}),
        ({"min_p": 0.2}, {0, 1, 2}),
        ({"min_p": 0.6, "top_k": 3}, {0}),
        ({"temperature": 0}, {0}),
    ],
)
def test_only_tokens_inside_the_limits_are_drawn(settings, possible):
    config = SamplingConfig(**({"temperature": 1.0} | settings))
    rng = torch.Generator().manual_seed(0)
    assert {sample(LOGITS, config, rng) for _ in range(300)} == possible


def test_tokens_are_drawn_as_often_as_they_are_likely():
    rng = torch.Generator().manual_seed(0)
    config = SamplingConfig(temperature=1.0)
    drawn = torch.bincount(torch.tensor([sample(LOGITS, config, rng) for _ in range(4000)]))
    torch.testing.assert_close(drawn / 4000, LOGITS.exp(), atol=0.03, rtol=0)


@given(st.text())
def test_pieces_are_whole_characters_and_together_the_text(text):
    ids = TOKENIZER.encode(text)
    pieces = list(stream(ids, TOKENIZER))
    assert "".join(pieces) == TOKENIZER.decode(ids)
    assert all(pieces)


def test_half_a_character_at_the_end_is_held_back():
    ids = TOKENIZER.encode("a🜁")
    assert "".join(stream(ids[:-1], TOKENIZER)) == "a"
    assert "".join(stream(ids, TOKENIZER)) == "a🜁"


ABC = Tokenizer.train(["abc bca cab aab bbc cca abcabc"] * 3, 280)


@given(st.lists(st.text("abc", max_size=6)), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_stop_that_is_complete_first_however_it_is_cut_into_tokens(pieces, stop):
    text = "".join(pieces)
    tokens = [token for piece in pieces for token in ABC.encode(piece)]
    ends = [0, *itertools.accumulate(ABC.byte_lengths[token] for token in tokens)]
    # A token is added at a time: of the stops complete in the first such part, the one that ends first.
    known = next((text[:end] for end in ends if any(string in text[:end] for string in stop)), "")
    found = [(known.find(string) + len(string), known.find(string)) for string in stop if string in known]
    end = min(found)[1] if found else len(text)
    out = list(stream(tokens, ABC, stop))
    assert "".join(out) == text[:end]
    assert all(out)


def test_text_is_passed_on_as_soon_as_no_stop_can_begin_in_it():
    text = TextStream(TOKENIZER, ["ox"])
    assert "".join(map(text.add, TOKENIZER.encode("one two"))) == "one tw"
    assert (text.held, text.stopped) == ("o", False)


PROMPTS = ["some words", "a text of some words", "der Käse"]


@cache
def chosen(choice):
    """As `generator`, with another choice of the model."""
    torch.manual_seed(1)
    sizes = {
        "vocab_size": TOKENIZER.vocab_size,
        "sequence_len": CONTEXT,
        "width": 32,
        "layers": 2,
        "heads": 4,
    }
    model = GPT(ModelConfig(**{**sizes, **CHOICES[choice]}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.3)
    return Generator(model, TOKENIZER)


def each_choice(greedy, sampled):
    """Every choice with sampling, in which a difference in any number shows, and the default also without."""
    cases = [*((choice, sampled) for choice in CHOICES), ("default", greedy)]
    return pytest.mark.parametrize(("choice", "settings"), cases)


@each_choice({"temperature": 0}, {"seed": 5, "temperature": 1.2, "top_p": 0.9})
def test_several_prompts_together_go_on_as_each_alone_past_the_context_too(choice, settings):
    written = chosen(choice)
    together = written.complete_all(PROMPTS, max_tokens=CONTEXT + 8, **settings)
    seeds = [{"seed": 5 + row} if "seed" in settings else {} for row in range(3)]
    alone = [
        "".join(written.complete(prompt, max_tokens=CONTEXT + 8, **(settings | seed)))
        for prompt, seed in zip(PROMPTS, seeds, strict=True)
    ]
    assert together == alone


@each_choice({"temperature": 0}, {"seed": 5, "temperature": 0.5})
def test_guessing_ahead_gives_exactly_the_same_tokens(choice, settings):
    written = chosen(choice)
    prompt = TOKENIZER.encode("some words, some words of a text, some words of")
    plain = take(written, prompt, CONTEXT + 8, **settings)
    assert take(written, prompt, CONTEXT + 8, speculate=4, **settings) == plain


def test_what_is_guessed_right_is_read_at_once(generator):
    """A model that repeats itself needs fewer readings than it writes tokens, and no more than without."""
    for parameter in (model := GPT(generator.model.config)).parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.05)
    repeating = Generator(model, TOKENIZER)
    readings = []
    read = repeating._read
    repeating._read = lambda rows, cache: (readings.append(len(rows[0])), read(rows, cache))[1]
    tokens = take(repeating, [1, 2], 24, temperature=0, speculate=6)
    assert len(tokens) == 24
    assert len(set(tokens[-8:])) < 8
    assert len(readings) < 20
    assert max(readings) <= 7


def test_fewer_tokens_than_guessed_are_written_when_fewer_are_asked_for(generator):
    for count in range(1, 9):
        assert len(take(generator, [5, 6, 7, 5, 6, 7, 5, 6, 7], count, temperature=0, speculate=5)) == count


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 4), st.integers(0, 5))
def test_a_guess_is_what_came_after_the_same_tokens_last_time(text, n, most):
    guess = NGrams(text, n).guess(most)
    key = text[-n:] if len(text) >= n else None
    places = [at for at in range(n, len(text)) if text[at - n : at] == key]
    assert guess == (text[places[-1] :][:most] if places else [])


def test_logprobs_are_those_of_the_model_and_of_what_was_written(generator):
    prompt = "some words"
    tokens = list(generator.complete_tokens(prompt, likeliest=3, max_tokens=8, temperature=0))
    ids = [TOKENIZER.endoftext, *TOKENIZER.encode(prompt)]
    for token in tokens:
        with torch.no_grad():
            logprobs = generator.model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        assert token.logprob == pytest.approx(float(logprobs[token.id]), abs=1e-4)
        top = logprobs.topk(3)
        assert [one for one, _ in token.likeliest] == top.indices.tolist()
        assert [p for _, p in token.likeliest] == pytest.approx(top.values.tolist(), abs=1e-4)
        ids.append(token.id)
    scored = generator.score(ids, likeliest=3)
    assert [token.id for token in scored] == ids[1:]
    written = scored[-len(tokens) :]
    assert [token.logprob for token in written] == pytest.approx([t.logprob for t in tokens], abs=1e-4)


def test_tokens_with_logprobs_end_before_a_stop_string(generator):
    settings = {"max_tokens": 20, "temperature": 0}
    whole = [token.id for token in generator.complete_tokens("a", **settings)]
    pairs = map("".join, itertools.pairwise(TOKENIZER.decode(whole)[1:]))
    stop = next(pair for pair in pairs if "\ufffd" not in pair)  # half a character may still become another
    ended = [token.id for token in generator.complete_tokens("a", **settings, stop=(stop,))]
    assert ended == whole[: len(ended)]
    assert stop not in TOKENIZER.decode(ended)
    assert stop in TOKENIZER.decode(whole[: len(ended) + 1])


def test_rows_together_end_at_their_stop_strings(generator):
    whole = generator.complete_all(PROMPTS, max_tokens=20, temperature=0)
    stop = whole[0][3:6]
    ended = generator.complete_all(PROMPTS, max_tokens=20, temperature=0, stop=(stop,))
    assert ended == [text.partition(stop)[0] for text in whole]


@torch.no_grad()
@pytest.mark.parametrize(
    ("changes", "weights", "tolerance"),
    [
        *(
            (changes, "fp32", 1e-5)
            for changes in ({}, {"preset": "llama"}, {"kv_heads": 1}, {"tied_embeddings": False})
        ),
        ({}, "fp16", 5e-3),
    ],
)
def test_the_decoder_is_the_model(generator, changes, weights, tolerance):
    torch.manual_seed(0)
    model = GPT(
        replace(ModelConfig(vocab_size=300, sequence_len=CONTEXT, width=32, **changes), layers=2)
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    ids = torch.randint(300, (3, CONTEXT), generator=torch.Generator().manual_seed(1))
    for padding in (None, torch.tensor([0, 3, 1])):
        ours, theirs = KVCache(model.config, 3, padding=padding), KVCache(model.config, 3, padding=padding)
        for piece in ids.split([9, 1, 1, 21], dim=1):
            expected = model(piece, cache=theirs)
            largest = float(expected.abs().max())
            torch.testing.assert_close(
                Decoder(model, weights)(piece, ours), expected, rtol=0, atol=tolerance * largest
            )
    with pytest.raises(ValueError, match="33 positions"):
        Decoder(model)(ids[:, :1], ours)


def test_fp16_is_refused_where_there_is_no_decoder(generator):
    for choice in ("attention mla", "preset gpt2", "preset olmo2"):
        with pytest.raises(ConfigError, match=r"^preset = "):
            Generator(chosen(choice).model, TOKENIZER, weights="fp16")
    assert "".join(Generator(generator.model, TOKENIZER, weights="fp16").complete("a", max_tokens=4))
