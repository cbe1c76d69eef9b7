from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from rlhf.data.formats import READERS
from rlhf.data.formats.reading import Origin
from rlhf.data.jsonl import in_one_line
from rlhf.data.records import PluginUse, PromptRecord, RankingRecord

ORIGIN = Origin("file.json:7", "file.json")
U, A, S = "user", "assistant", "system"


def read(format: str, row: dict[str, Any]) -> Any:
    record = READERS[format](row, ORIGIN)
    assert record.id == "file.json:7"
    return record


def turns(record: Any) -> list[tuple[str, str]]:
    messages = record.prompt.messages if isinstance(record, RankingRecord) else record.messages
    return [(message.role, message.content) for message in messages]


def answers(record: RankingRecord) -> list[str]:
    """Best first."""
    ranked = zip(record.ranks, record.responses, strict=True)
    return [response.text for _, response in sorted(ranked, key=lambda pair: pair[0])]


def said(**texts: str) -> list[dict[str, str]]:
    return [{"from": role.rstrip("_"), "value": text} for role, text in texts.items()]


def message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_all_formats_are_registered() -> None:
    assert sorted(READERS) == [
        "alpaca",
        "baichuan2",
        "hh-rlhf",
        "label-studio",
        "llamafactory-preference",
        "moss-002",
        "moss-003",
        "openai",
        "prompts",
        "sharegpt",
        "trl-preference",
        "trl-prompt-completion",
    ]


def test_alpaca() -> None:
    plain = read("alpaca", {"instruction": "译", "input": "", "output": "好"})
    assert turns(plain) == [(U, "译"), (A, "好")]
    assert plain.source == "file.json" and plain.metadata == {}
    row = {
        "instruction": "translate",
        "input": "cat",
        "output": "猫",
        "system": "be brief",
        "history": [["hi", "hello"]],
        "topic": "zh",
        "score": 3,
    }
    full = read("alpaca", row)
    assert turns(full) == [
        (S, "be brief"),
        (U, "hi"),
        (A, "hello"),
        (U, "translate\ncat"),
        (A, "猫"),
    ]
    assert full.metadata == {"topic": "zh", "score": "3"}


def test_belle_conversations_of_several_turns() -> None:
    asked = "Human:你好\nAssistant:您好！\n请讲\nHuman: 再见\n\nAssistant:"
    record = read("alpaca", {"instruction": asked, "input": "", "output": "再见"})
    assert turns(record) == [(U, "你好"), (A, "您好！\n请讲"), (U, "再见"), (A, "再见")]
    quoted = "Continue this:\nHuman: hi\nAssistant:"
    assert turns(read("alpaca", {"instruction": quoted, "output": "hello"})) == [
        (U, quoted),
        (A, "hello"),
    ]


def test_prompts_alone() -> None:
    record = read("prompts", {"category": "honest", "user_prompt": "今天几号？"})
    assert isinstance(record, PromptRecord)
    assert turns(record) == [(U, "今天几号？")] and record.metadata == {"category": "honest"}
    asked = [message(S, "rules"), message(U, "why?")]
    assert turns(read("prompts", {"prompt": asked})) == [(S, "rules"), (U, "why?")]


def test_baichuan2_and_sharegpt() -> None:
    row = {
        "id": "27684",
        "conversations": said(human="one", gpt="two", human_="three", gpt_="four"),
    }
    for format in ("baichuan2", "sharegpt"):
        record = read(format, row)
        assert turns(record) == [(U, "one"), (A, "two"), (U, "three"), (A, "four")]
        assert record.metadata == {"id": "27684"}
    with_system = {"system": "be kind", "conversations": said(user="one", chatgpt="two")}
    assert turns(read("sharegpt", with_system))[0] == (S, "be kind")


def test_sharegpt_in_pairs_and_with_more_to_say() -> None:
    pairs = [{"human": "one", "assistant": "two"}, {"human": "three", "assistant": "four"}]
    record = read("sharegpt", {"conversation": pairs, "conversations": None, "category": "chat"})
    assert turns(record) == [(U, "one"), (A, "two"), (U, "three"), (A, "four")]
    assert record.metadata == {"category": "chat"}
    messages = [{"from": "human", "value": "a", "lang": "en"}, message(A, "b") | {"from": None}]
    record = read("sharegpt", {"conversations": messages})
    assert turns(record) == [(U, "a"), (A, "b")] and record.metadata == {"message_1.lang": "en"}


@pytest.mark.parametrize("asker", ["human", "Human", "USER", "prompter"])
@pytest.mark.parametrize("answerer", ["gpt", "GPT", "Assistant", "chatgpt", "model", "bot", "AI"])
def test_roles_have_many_names(asker: str, answerer: str) -> None:
    record = read("sharegpt", {"conversations": said(**{asker: "a", answerer: "b"})})
    assert turns(record) == [(U, "a"), (A, "b")]


def test_an_empty_system_turn_is_none() -> None:
    row = {"messages": [message(S, ""), message(U, "a"), message(A, "b")]}
    assert turns(read("openai", row)) == [(U, "a"), (A, "b")]


def test_openai() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "more"}]
    messages = [
        message("developer", "rules"),
        message(U, parts) | {"name": "Bo"},
        message(A, "two"),
    ]
    record = read("openai", {"messages": messages})
    assert turns(record) == [(S, "rules"), (U, "one\nmore"), (A, "two")]
    assert record.metadata == {"message_2.name": "Bo"}


def test_llamafactory_preference() -> None:
    row = {
        "conversations": said(system="rules", human="why?"),
        "chosen": {"from": "gpt", "value": "because"},
        "rejected": {"from": "gpt", "value": "no"},
    }
    record = read("llamafactory-preference", row)
    assert turns(record) == [(S, "rules"), (U, "why?")]
    assert answers(record) == ["because", "no"] and record.grades == ()
    assert {response.provenance.family for response in record.responses} == {"unknown"}


def test_llamafactory_preference_in_other_layouts() -> None:
    plain = {"instruction": "why?", "chosen": "because", "rejected": "no"}
    shapes = [
        plain | {"input": "", "history": None},
        {"instruction": "why?", "output": ["because", "no"]},
        {
            "messages": [message(U, "why?")],
            "chosen": message(A, "because"),
            "rejected": message(A, "no"),
        },
        {"conversations": said(human="why?"), "chosen": "because", "rejected": "no"},
    ]
    for row in shapes:
        record = read("llamafactory-preference", row)
        assert turns(record) == [(U, "why?")] and answers(record) == ["because", "no"]
    row = plain | {"system": "rules", "input": "sky", "history": [["a", "b"]], "score": 3}
    record = read("llamafactory-preference", row)
    assert turns(record) == [(S, "rules"), (U, "a"), (A, "b"), (U, "why?\nsky")]
    assert record.prompt.metadata == {"score": "3"}


def test_hh_rlhf() -> None:
    start = "\n\nHuman: one\n\nmore\n\nAssistant: two\n\nHuman: three\n\nAssistant:"
    record = read("hh-rlhf", {"chosen": start + " good", "rejected": start + " bad\n"})
    assert turns(record) == [(U, "one\n\nmore"), (A, "two"), (U, "three")]
    assert answers(record) == ["good", "bad"]


def test_a_prompt_is_known_by_its_roles_and_contents() -> None:
    """The first 16 digits of the SHA-256 of [["user", "one"]], which must not change: rankings
    converted earlier and later are of one prompt."""

    def known(*prompt: dict[str, str]) -> str:
        row = {"prompt": list(prompt), "chosen": "good", "rejected": "bad"}
        return str(read("trl-preference", row).prompt.id)

    assert known(message(U, "one")) == "prompt-d9b37987d1a4140f"
    said = [
        (message(U, "one two"),),
        (message(S, "one"), message(U, "two")),
        (message(U, "one"), message(A, "x"), message(U, "two")),
        (message(U, "one"), message(A, "y"), message(U, "two")),
    ]
    assert len({known(*prompt) for prompt in said}) == 4
    assert known(message(U, "one") | {"name": "Ann"}) == known(message(U, "one"))


def test_hh_rlhf_as_lists_of_turns() -> None:
    for before in (["Human: one", "Assistant: two", "Human:three"], ["one", "two", "three"]):
        ends = ("Assistant: good", "Assistant: bad") if ":" in before[0] else ("good", "bad")
        row = {"chosen": [*before, ends[0]], "rejected": [*before, ends[1]], "GPT4 label": 1}
        record = read("hh-rlhf", row)
        assert turns(record) == [(U, "one"), (A, "two"), (U, "three")]
        assert answers(record) == ["good", "bad"]
        assert record.prompt.metadata == {"GPT4 label": "1"}


def test_moss_002() -> None:
    plain = "[Human]: 你好<eoh> [MOSS]: 您好！\n请讲<eoa> [Human]: 再见<eoh>\n[MOSS]: 再见<eoa> "
    record = read("moss-002", {"id": "0", "plain_text": plain, "prefix": "MOSS is", "num_turns": 2})
    assert turns(record) == [
        (S, "MOSS is"),
        (U, "你好"),
        (A, "您好！\n请讲"),
        (U, "再见"),
        (A, "再见"),
    ]
    assert record.metadata == {"id": "0", "num_turns": "2"}


def moss_turn(number: int, **changes: str) -> dict[str, str]:
    parts = {
        "Human": f"<|Human|>: ask {number}<eoh>\n",
        "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
        "Commands": "<|Commands|>: None<eoc>\n",
        "Tool Responses": "<|Results|>:\nNone\n<eor>\n",
        "MOSS": f"<|MOSS|>: say {number}<eom>\n",
    }
    return parts | changes


def test_moss_003_orders_turns_by_number() -> None:
    chat = {f"turn_{number}": moss_turn(number) for number in (10, *range(1, 10))}
    record = read("moss-003", {"conversation_id": 5, "meta_instruction": "rules\n", "chat": chat})
    expected = [pair for n in range(1, 11) for pair in ((U, f"ask {n}"), (A, f"say {n}"))]
    assert turns(record) == [(S, "rules\n"), *expected]
    assert record.metadata == {"conversation_id": "5"}


def test_moss_003_keeps_what_plugins_did() -> None:
    called = moss_turn(
        1,
        Commands='<|Commands|>: Calculate("1+1")<eoc>\n',
        **{"Tool Responses": "<|Results|>:\nCalculate(\"1+1\") => '2'\n<eor>\n"},
    )
    chat = {"turn_1": called, "turn_2": moss_turn(2)}
    record = read("moss-003", {"meta_instruction": "", "chat": chat})
    assert [message.plugins for message in record.messages] == [
        None,
        PluginUse(commands='Calculate("1+1")', results="Calculate(\"1+1\") => '2'"),
        None,
        None,
    ]
    assert record.metadata == {}


def test_moss_003_preferences_have_plugins_in_the_prompt() -> None:
    called = {"Commands": '<|Commands|>: Calculate("1+1")<eoc>\n'}
    chats = [
        {"turn_1": moss_turn(1, **called), "turn_2": moss_turn(2, MOSS=text, **called)}
        for text in ("good", "bad")
    ]
    record = read("moss-003", {"chosen": chats[0], "rejected": chats[1]})
    assert record.prompt.messages[1].plugins == PluginUse(commands='Calculate("1+1")')
    assert record.prompt.metadata == {
        "chosen.commands": 'Calculate("1+1")',
        "rejected.commands": 'Calculate("1+1")',
    }


def test_moss_003_turns_that_a_table_has_as_null() -> None:
    chat = {"turn_1": moss_turn(1) | {"Commands": None}, "turn_2": None}
    assert turns(read("moss-003", {"chat": chat})) == [(U, "ask 1"), (A, "say 1")]


def test_moss_003_preferences() -> None:
    asked = {key: value for key, value in moss_turn(2).items() if key != "MOSS"}
    chat = {"turn_1": moss_turn(1), "turn_2": asked}
    good, bad = "<|MOSS|>: good<eom>\n", "<|MOSS|>: bad<eom>\n"
    rows = [
        {"meta_instruction": "rules", "chat": chat, "chosen": good, "rejected": bad},
        {"meta_instruction": "rules", "chat": chat, "chosen": "good", "rejected": "bad"},
        {
            "meta_instruction": "rules",
            "chat": chat,
            "chosen": {"Commands": "<|Commands|>: None<eoc>\n", "MOSS": good},
            "rejected": {"MOSS": bad},
        },
        {
            "meta_instruction": "rules",
            "chosen": chat | {"turn_2": moss_turn(2, MOSS=good)},
            "rejected": chat | {"turn_2": moss_turn(2, MOSS=bad)},
        },
    ]
    for row in rows:
        record = read("moss-003", row)
        assert turns(record) == [(S, "rules"), (U, "ask 1"), (A, "say 1"), (U, "ask 2")]
        assert answers(record) == ["good", "bad"]


def test_trl_preference_in_all_its_shapes() -> None:
    ask, good, bad = message(U, "sky?"), message(A, "blue"), message(A, "green")
    shapes = [
        {"prompt": "sky?", "chosen": "blue", "rejected": "green"},
        {"prompt": [ask], "chosen": [good], "rejected": [bad]},
        {"chosen": [ask, good], "rejected": [ask, bad]},
        {"prompt": "sky?", "chosen": [ask, good], "rejected": [ask, bad]},
        {"prompt": [ask], "chosen": "blue", "rejected": "green"},
        {"prompt": None, "chosen": [ask, good], "rejected": [ask, bad]},
    ]
    for row in shapes:
        record = read("trl-preference", row)
        assert turns(record) == [(U, "sky?")] and answers(record) == ["blue", "green"]
    implicit = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    record = read("trl-preference", implicit)
    assert turns(record) == [(U, "The sky is")] and answers(record) == [" blue.", " green."]


@pytest.mark.parametrize("name", ["question", "instruction", "query", "input"])
def test_trl_prompt_under_another_name(name: str) -> None:
    ends = {"chosen": "It is Paris.", "rejected": "It is Lyon."}
    asked = {"system": "Be brief.", name: "Capital of France?", "id": "7"}
    record = read("trl-preference", asked | ends)
    assert turns(record) == [(S, "Be brief."), (U, "Capital of France?")]
    assert answers(record) == ["It is Paris.", "It is Lyon."]
    assert record.prompt.metadata == {"id": "7"}
    spoken = {key: [message(A, text)] for key, text in ends.items()}
    assert turns(read("trl-preference", asked | spoken)) == turns(record)
    inside = {key: f"Capital of France? {text}" for key, text in ends.items()}
    assert answers(read("trl-preference", asked | inside)) == [" Paris.", " Lyon."]
    talks = {key: [message(U, "Where?"), message(A, text)] for key, text in ends.items()}
    assert turns(read("trl-preference", asked | talks)) == [(S, "Be brief."), (U, "Where?")]


def test_trl_prompt_beside_alpacas_input_or_a_system_text() -> None:
    ends = {"chosen": "甲", "rejected": "乙"}
    record = read("trl-preference", {"instruction": "译", "input": "a", **ends})
    assert turns(record) == [(U, "译\na")]
    record = read("trl-preference", {"prompt": "译", "system": "短", **ends})
    assert turns(record) == [(S, "短"), (U, "译")]


@pytest.mark.parametrize(
    "beside",
    [
        {"question": " What is 2+2?\n"},
        {"query": "What is 2+2?", "input": "tok-17"},
        {"instruction": "Rate them.", "question": "What is 2+2?"},
        {"query": 17},
        {"question": {"id": 3}},
        {"instruction": ["a"]},
    ],
)
@pytest.mark.parametrize("system", ["Be brief.", 3])
def test_trl_prompt_inside_both_answers_is_split_off_whatever_column_is_beside_it(
    beside: dict[str, Any], system: object
) -> None:
    start = "Human: What is 2+2?\n\nAssistant:"
    ends = {"chosen": f"{start} It is 4.", "rejected": f"{start} 5, clearly."}
    record = read("trl-preference", {**beside, "system": system, **ends})
    assert turns(record) == [(U, start)] and answers(record) == [" It is 4.", " 5, clearly."]
    assert list(record.prompt.metadata) == [*beside, "system"]


def test_trl_fields_that_are_no_text_are_metadata() -> None:
    ends = {"chosen": "cat, chat", "rejected": "cat, chien"}
    record = read("trl-preference", {"prompt": "译", "system": True, **ends})
    assert turns(record) == [(U, "译")] and record.prompt.metadata == {"system": "true"}
    asked = {"instruction": "译", "input": [1], "history": "none so far", "system": ["x"]}
    record = read("trl-preference", asked | ends)
    assert turns(record) == [(U, "译")] and set(record.prompt.metadata) == {*asked} - {
        "instruction"
    }
    asked |= {"input": "cat", "history": '[["a", "b"]]', "system": "短"}
    record = read("trl-preference", asked | ends)
    assert turns(record) == [(S, "短"), (U, "a"), (A, "b"), (U, "译\ncat")]
    assert answers(record) == list(ends.values()) and not record.prompt.metadata


@pytest.mark.parametrize(
    "prompt, good, bad",
    [
        ("Q: hi A:", " yes", " yeah no"),
        ("2 + 2 =", " 40", " 41"),
        ("你好吗？我", "很好", "不好"),
        ("Human: hi\n", "hello", "hell"),
        ("Human: hi.\n", "I’m willing", "I’ve had it"),
        ("Q: price? A:", " 10,000", " 10,500"),
        ("Q: pi? A:", " 3.14", " 3.41"),
        ("Q: how?\n", "well-known", "well-worn"),
        ("Q: may I?\n", "don't", "don"),
        ("Say - and,", " - yes", " no"),
    ],
)
def test_trl_texts_are_split_at_a_word(prompt: str, good: str, bad: str) -> None:
    record = read("trl-preference", {"chosen": prompt + good, "rejected": prompt + bad})
    assert turns(record) == [(U, prompt)] and answers(record) == [good, bad]


def test_trl_prompt_that_conversations_repeat_after_a_system_turn() -> None:
    start = [message(S, "rules"), message(U, "sky?")]
    ends = {key: [*start, message(A, key)] for key in ("chosen", "rejected")}
    record = read("trl-preference", {"prompt": "sky?", **ends})
    assert turns(record) == [(S, "rules"), (U, "sky?")]
    assert answers(record) == ["chosen", "rejected"]


def test_cells_of_tables_with_json_in_them() -> None:
    ask, good, bad = message(U, "sky?"), message(A, "blue"), message(A, "green")
    expected = [(U, "sky?"), (A, "blue")]
    assert turns(read("openai", {"messages": json.dumps([ask, good])})) == expected
    row = {"instruction": "sky?", "output": "blue", "history": "", "system": ""}
    assert turns(read("alpaca", row)) == expected
    row["history"] = '[["a", "b"]]'
    assert turns(read("alpaca", row)) == [(U, "a"), (A, "b"), *expected]
    chat = json.dumps({"turn_1": moss_turn(1), "turn_2": None})
    assert turns(read("moss-003", {"chat": chat})) == [(U, "ask 1"), (A, "say 1")]
    both = {"chosen": json.dumps([ask, good]), "rejected": json.dumps([ask, bad])}
    assert answers(read("trl-preference", both)) == ["blue", "green"]
    texts = {"prompt": "a list?", "chosen": '[{"colour": "blue"}]', "rejected": "[]"}
    assert answers(read("trl-preference", texts)) == [texts["chosen"], "[]"]


def test_trl_prompt_completion() -> None:
    expected = [(U, "sky?"), (A, "blue")]
    plain = {"prompt": "sky?", "completion": "blue"}
    assert turns(read("trl-prompt-completion", plain)) == expected
    spoken = {"prompt": [message(U, "sky?")], "completion": [message(A, "blue")]}
    assert turns(read("trl-prompt-completion", spoken)) == expected


def annotated(data: dict[str, Any], *annotations: dict[str, Any]) -> dict[str, Any]:
    return {"id": 1, "data": data, "annotations": list(annotations)}


def annotation(kind: str, value: dict[str, Any], **changes: Any) -> dict[str, Any]:
    result = {"type": kind, "from_name": "r", "to_name": "a1,a2", "value": value}
    made = {"completed_by": 7, "created_at": "2026-03-09T22:16:08.728353Z", "was_cancelled": False}
    return made | {"result": [result]} | changes


def test_label_studio_ranker() -> None:
    items = [{"id": name, "body": f"text {name}", "title": name.upper()} for name in "xyz"]
    data = {"prompt": "why?", "items": items, "topic": "sky"}
    first = annotation("ranker", {"ranker": {"r": ["z", "x", "y"]}})
    record = read("label-studio", annotated(data, first))
    assert turns(record) == [(U, "why?")]
    assert [response.text for response in record.responses] == ["text x", "text y", "text z"]
    assert record.ranks == (2, 3, 1)
    assert record.annotator == "7" and record.time is not None and record.time.year == 2026
    metadata = record.prompt.metadata
    assert (metadata["data.topic"], metadata["item_y.title"], metadata["id"]) == ("sky", "Y", "1")


def test_label_studio_pairwise_takes_the_last_annotation_and_keeps_the_others() -> None:
    left = annotation("pairwise", {"selected": "left"}, completed_by=1)
    right = annotation("pairwise", {"selected": "right"}, completed_by={"id": 2, "email": "a@b.c"})
    cancelled = annotation("pairwise", {"selected": "left"}, was_cancelled=True)
    data = {"prompt": "why?", "a1": "one", "a2": "two"}
    record = read("label-studio", annotated(data, left, right, cancelled))
    assert answers(record) == ["two", "one"] and record.annotator == "a@b.c"
    assert json.loads(record.prompt.metadata["other_annotations"]) == [left, cancelled]


@pytest.mark.parametrize("created", [1595424583, 1595424583.0, "1595424583", 1595424583000])
def test_label_studio_time_may_be_a_number(created: object) -> None:
    data = {"prompt": "why?", "a1": "one", "a2": "two"}
    ranked = annotation("pairwise", {"selected": "left"}, created_at=created)
    record = read("label-studio", annotated(data, ranked))
    assert record.time.isoformat() == "2020-07-22T13:29:43+00:00"
    assert RankingRecord.model_validate_json(record.model_dump_json()) == record


def test_label_studio_json_min() -> None:
    items = [{"id": name, "body": f"text {name}"} for name in "xyz"]
    about = {"annotator": "a@b.c", "annotation_id": 4, "created_at": "2026-05-01T10:00:00Z"}
    results = {"r": [{"ranker": {"r": ["z", "x", "y"]}}], "stars": [{"rating": 4}], "tone": "dry"}
    row = {"prompt": "why?", "items": items, "id": 1, "lead_time": 2.5, **results, **about}
    record = read("label-studio", row)
    assert [response.text for response in record.responses] == ["text x", "text y", "text z"]
    assert record.ranks == (2, 3, 1)
    assert record.annotator == "a@b.c" and record.time is not None and record.time.month == 5
    metadata = record.prompt.metadata
    assert (metadata["data.tone"], metadata["id"]) == ("dry", "1")
    assert json.loads(metadata["results"])[0]["value"] == {"rating": 4}


@pytest.mark.parametrize(
    ("format", "row", "reason"),
    [
        ("alpaca", {"instruction": "a"}, "field 'output' is missing"),
        ("alpaca", {"instruction": "a", "output": 5}, "field 'output' is not text but int"),
        ("alpaca", {"instruction": ["a", "b"], "output": "c"}, "is not text but list"),
        ("alpaca", {"instruction": "a", "output": None}, "field 'output' is null"),
        ("alpaca", {"instruction": "a", "output": " "}, "messages.1.content: the text is empty"),
        ("alpaca", {"instruction": "a", "output": "b", "history": "x"}, "field 'history'"),
        ("sharegpt", {"conversations": said(gpt="a", human="b")}, "'user' was expected"),
        ("sharegpt", {"conversations": said(human="a")}, "the last turn must be 'assistant'"),
        ("sharegpt", {"conversations": said(tool="a")}, "role 'tool' is none of human"),
        ("baichuan2", {"conversations": "text"}, "must be a list of objects"),
        ("openai", {"messages": [message(U, [{"type": "image_url"}])]}, "not text but 'image_url'"),
        ("openai", {"messages": [message(A, None) | {"tool_calls": [1]}]}, "calls a tool"),
        ("openai", {"messages": [message(U, "a"), message("tool", "b")]}, "role 'tool' is none"),
        ("openai", {"messages": [message(U, "a"), message(A, None)]}, "field 'content' is null"),
        ("openai", {"messages": [message(U, "a"), message(A, [])]}, "the text is empty"),
        ("prompts", {"prompt": [message(U, "a"), message(A, "b")]}, "last turn must be 'user'"),
        (
            "llamafactory-preference",
            {"instruction": "a", "output": ["b", "c", "d"]},
            "3 answers where 2 were expected",
        ),
        (
            "moss-003",
            {"chat": {"turn_1": moss_turn(1)}, "chosen": "a", "rejected": "b"},
            "an answer that is neither chosen nor rejected",
        ),
        ("moss-003", {"chat": {"turn_1": None}}, "are not 1, 2, ..."),
        ("hh-rlhf", {"chosen": [1], "rejected": ["a"]}, "must be a list of texts"),
        ("hh-rlhf", {"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: b"}, "both end with"),
        ("hh-rlhf", {"chosen": "hello", "rejected": "hello"}, "must start with Human"),
        (
            "hh-rlhf",
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: x\n\nAssistant: y"},
            "differ before the last turn",
        ),
        (
            "hh-rlhf",
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant:"},
            "a response is empty",
        ),
        ("trl-preference", {"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same"),
        ("trl-preference", {"chosen": "same", "rejected": "other"}, "the text is empty"),
        ("moss-002", {"plain_text": "[Human]: a<eoh> [MOSS]: b"}, "from character 16 on"),
        ("moss-003", {"chat": {"turn_1": {}, "turn_3": {}}}, "[1, 3] are not 1, 2"),
        ("moss-003", {"chat": {"first": {}}}, "'first' where turn_1"),
        ("moss-003", {"chat": {"turn_1": {"Human": "a"}}}, "field 'MOSS' is missing"),
        ("label-studio", annotated({"prompt": "a"}), "no annotation"),
        ("label-studio", {"prompt": "a", "annotation_id": None}, "no annotation"),
        (
            "label-studio",
            {"prompt": "a", "b": "c", "annotation_id": 1, "p": [{"selected": "left"}]},
            "JSON_MIN does not say which",
        ),
        (
            "label-studio",
            annotated({"prompt": "a"}, annotation("rating", {"rating": 3})),
            "no result of type",
        ),
        (
            "label-studio",
            annotated(
                {"prompt": "a", "items": [{"id": "x", "body": "b"}, {"id": "y", "body": "c"}]},
                annotation("ranker", {"ranker": {"r": ["x"]}}),
            ),
            "not an order of the items",
        ),
    ],
)
def test_reasons(format: str, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(format, row)
    found = caught.value
    assert reason in (in_one_line(found) if isinstance(found, ValidationError) else str(found))


SEEDS: dict[str, dict[str, Any]] = {
    "alpaca": {
        "instruction": "a",
        "input": "b",
        "output": "c",
        "system": "d",
        "history": [["e", "f"]],
    },
    "baichuan2": {"conversations": said(human="a", gpt="b")},
    "sharegpt": {"conversations": said(human="a", gpt="b"), "system": "s"},
    "openai": {"messages": [message(U, [{"type": "text", "text": "a"}]), message(A, "b")]},
    "llamafactory-preference": {
        "conversations": said(human="a"),
        "chosen": {"from": "gpt", "value": "b"},
        "rejected": {"from": "gpt", "value": "c"},
    },
    "hh-rlhf": {
        "chosen": "\n\nHuman: a\n\nAssistant: b",
        "rejected": "\n\nHuman: a\n\nAssistant: c",
    },
    "moss-002": {"plain_text": "[Human]: a<eoh> [MOSS]: b<eoa>", "prefix": "p"},
    "moss-003": {"meta_instruction": "m", "chat": {"turn_1": moss_turn(1)}},
    "trl-preference": {"prompt": [message(U, "a")], "chosen": [message(A, "b")], "rejected": "c"},
    "trl-prompt-completion": {"prompt": [message(U, "a")], "completion": [message(A, "b")]},
    "prompts": {"prompt": [message(U, "a")], "category": "c"},
    "label-studio": annotated(
        {"prompt": "a", "items": [{"id": "x", "body": "b"}, {"id": "y", "body": "c"}]},
        annotation("ranker", {"ranker": {"r": ["x", "y"]}}),
    ),
}
JUNK = [None, 0, 1.5, True, "", " ", "text", [], ["a"], {}, {"a": 1}, [[]], [{}]]


def mutated(value: Any, random: Random) -> Any:
    """A copy with a few of its parts replaced or left out."""
    if random.random() < 0.15:
        return random.choice(JUNK)
    if isinstance(value, dict):
        kept = [key for key in value if random.random() > 0.05]
        return {key: mutated(value[key], random) for key in kept}
    if isinstance(value, list):
        return [mutated(each, random) for each in value]
    return value


OTHER_SEEDS: list[tuple[str, dict[str, Any]]] = [
    ("llamafactory-preference", {"instruction": "a", "output": ["b", "c"]}),
    ("sharegpt", {"conversation": [{"human": "a", "assistant": "b"}]}),
    ("hh-rlhf", {"chosen": ["a", "b"], "rejected": ["a", "c"]}),
    ("moss-003", {"chat": {"turn_1": {"Human": "a"}}, "chosen": "b", "rejected": "c"}),
]


@pytest.mark.parametrize(("format", "seed"), [*SEEDS.items(), *OTHER_SEEDS])
def test_damaged_rows_are_rejected_with_a_reason_and_never_crash(
    format: str, seed: dict[str, Any]
) -> None:
    random = Random(0)
    for _ in range(2000):
        row = mutated(seed, random)
        if not isinstance(row, dict):
            continue
        try:
            record = READERS[format](row, ORIGIN)
        except ValueError as error:
            assert str(error)
        else:
            record.model_dump_json()
