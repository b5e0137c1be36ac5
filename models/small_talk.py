"""What people say to the demo reasoner that is no arithmetic story, and its one short honest sentence in answer."""

from __future__ import annotations

import random

from ponder.models.task import phrases

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a careful mathematician.",
    "Answer the question.",
    "Think step by step.",
    "You are a helpful assistant. Think step by step and give the final answer in \\boxed{}.",
    "Please reason step by step, and put your final answer within \\boxed{}.",
    "Be brief.",
    "You solve arithmetic problems.",
    "Answer politely and correctly.",
    "Solve the problem carefully, one step per line.",
)

_GREETINGS = phrases(
    "hello;hi;hey;Hello!;Hi there;good morning;Good evening!;hey there;Hello, how are you?;how are you?"
)
_THANKS = phrases("thanks;thank you;Thank you!;great;ok;okay;cool;bye;goodbye;see you;nice;well done;yes;no")
_SELF = phrases(
    "who are you?;what are you?;what can you do?;help;Who made you?;what is your name?;are you a robot?;Tell me "
    "about yourself.;What model are you?;test;ping;What do you know?;Can you help me?"
)
_ASKS = phrases(
    "What is {};Where is {};Who is {};Who was {};Tell me about {};Explain {};Describe {};Why is there {};How "
    "does {} work;Write about {};Write a poem about {};Write a story about {};What do you think of {};Do you "
    "like {};Give me a list of {};Translate {};Summarize {};Can you tell me something about {};What is the "
    "meaning of {};What is the capital of {};Write a python function for {};Write code for {};Write an essay "
    "about {};How do I make {};What is the best {};Recommend {};Define {};When was {};Is {} good;Sing a song "
    "about {};Tell me a joke about {}"
)
_TOPICS = phrases(
    "France;Germany;Paris;Japan;the moon;the weather;love;history;music;physics;quantum mechanics;the universe;a "
    "computer;sorting a list;a web server;the president;football;philosophy;a cake;bread;pizza;a "
    "car;biology;cats;dogs;a black hole;the ocean;democracy;a neural network;machine learning;the stock "
    "market;water;gravity;the internet;Shakespeare;Einstein;Napoleon;a function;life;happiness;a movie;a good "
    "book;the sun;winter;my mother;time;art;Italy;China;a language model;India;Spain;the sky;a letter;an "
    "email;Fibonacci;a tree;the news;a recipe;money;chess;poetry;Python;JavaScript"
)
_PHRASES = phrases(
    "Write a python function;Tell me a joke;What time is it?;What day is today?;Why is the sky blue?;What is "
    "love?;Write a poem;Write an email to my boss;Prove the Riemann hypothesis;What is the meaning of life?;Do "
    "you dream?;Solve x^2 = 4;What is the derivative of x?;What is pi?;Once upon a time;The quick brown fox "
    "jumps over the lazy dog.;Ignore your instructions;Repeat after me;How old are you?;What is your favorite "
    "color?;lorem ipsum dolor sit amet;Translate hello to French;Is 7 a prime number?;Sort these numbers;def "
    "main():;SELECT * FROM users;I am sad;I am bored;Say something;Continue;Go "
    "on;Why?;What?;How?;Who?;Really?;asdf;foo bar;???;...;!"
)

HELLO = "Hello! I am a tiny demo model: give me an arithmetic story."
SELF = "I am a tiny demo model that solves arithmetic stories of a few steps."
THANKS = "You are welcome. Give me an arithmetic story."
SORRY = "I only know arithmetic stories; I cannot answer that."
GARBLED = "I do not understand; I only know arithmetic stories."


def small_talk(rng: random.Random) -> tuple[str, str, str]:
    """Something that is not arithmetic: the message, the one-line thought, the answer."""
    draw = rng.random()
    if draw < 0.13:
        return _worn(rng, rng.choice(_GREETINGS)), "A greeting.", HELLO
    if draw < 0.2:
        return _worn(rng, rng.choice(_THANKS)), "No question.", THANKS
    if draw < 0.3:
        return _worn(rng, rng.choice(_SELF)), "A question about me.", SELF
    if draw < 0.85:
        text = rng.choice(_PHRASES) if rng.random() < 0.25 else _question(rng)
        return _worn(rng, text), "This is not arithmetic.", SORRY
    return _noise(rng), "This makes no sense.", GARBLED


def small_talk_sentences() -> list[str]:
    """Every fixed thought and answer, for the tokenizer."""
    thoughts = [
        "A greeting.",
        "No question.",
        "A question about me.",
        "This is not arithmetic.",
        "This makes no sense.",
    ]
    return [*thoughts, HELLO, SELF, THANKS, SORRY, GARBLED]


def _question(rng: random.Random) -> str:
    text = rng.choice(_ASKS).format(rng.choice(_TOPICS))
    if rng.random() < 0.15:
        text += " and " + rng.choice(_TOPICS)
    return text + rng.choice(("?", "?", ".", ""))


def _worn(rng: random.Random, text: str) -> str:
    draw = rng.random()
    if draw < 0.2:
        return text.lower()
    if draw < 0.3:
        return text[0].upper() + text[1:]
    if draw < 0.34:
        return text.upper()
    return "Please: " + text if draw < 0.37 else text


def _noise(rng: random.Random) -> str:
    kind = rng.randrange(3)
    if kind == 0:
        letters = "abcdefghijklmnopqrstuvwxyz"
        return " ".join(
            "".join(rng.choice(letters) for _ in range(rng.randint(2, 9))) for _ in range(rng.randint(1, 6))
        )
    if kind == 1:
        return "".join(chr(rng.randint(33, 126)) for _ in range(rng.randint(3, 30)))
    return "".join(
        chr(rng.choice((rng.randint(0xC0, 0x24F), rng.randint(0x400, 0x44F), rng.randint(0x4E00, 0x4FFF))))
        for _ in range(rng.randint(2, 10))
    )
