"""Compares rendered chats with transformers. usage: templates.py RENDER [--record FILE]

RENDER is the example `render` of the crate `dataset`. With `--record`, writes the texts of transformers for a smaller table,
which a test of that crate reads.
"""

import datetime
import json
import re
import subprocess
import sys
from pathlib import Path

from constructs import STATEMENTS, VARIABLES, expressions
from templates_made import ARGUMENTS, CHATS, TOOLS, WITH_TOOLS, templates
from transformers.utils import chat_template_utils as reference

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
DAY = datetime.date(2024, 7, 26)
SHOWN = 20


class FixedDate(datetime.datetime):
    """Today is always the same day."""

    @classmethod
    def now(cls, tz=None):
        return cls(DAY.year, DAY.month, DAY.day)


def case(template: str, messages: list, tools=None, ask: bool = False, **arguments) -> dict:
    variables = SPECIAL | arguments
    return {"template": template, "messages": messages, "tools": tools, "add_generation_prompt": ask, "variables": variables, "date": str(DAY)}


def cases():
    """Yields a name and a case: the constructs alone, then templates × chats."""
    messages = CHATS["system"]
    for expression in expressions():
        yield expression, case("{{ " + expression + " }}", messages, **VARIABLES)
        parts = expression.split(" | ") if " | " in expression else []
        # A range is a list here, which only its printing shows.
        for part in (part for part in parts if not part.startswith("range(")):
            yield part, case("{{ " + part + " }}", messages, **VARIABLES)
    for statement in STATEMENTS:
        yield statement, case(statement, messages, **VARIABLES)
    for name, template in templates().items():
        for chat, messages in CHATS.items():
            for ask in (False, True):
                for arguments in ARGUMENTS:
                    yield f"{name} on {chat}", case(template, messages, None, ask, **arguments)
            if chat in WITH_TOOLS:
                yield f"{name} on {chat} with tools", case(template, messages, TOOLS)


def expected(wanted: dict) -> dict:
    """Renders a case with transformers."""
    has_blocks = re.search(r"\{%-?\+?\s*generation", wanted["template"]) is not None
    try:
        [text], blocks = reference.render_jinja_template(
            [reference._normalize_chat_messages(without_flags(wanted["messages"]))],
            tools=wanted["tools"],
            chat_template=wanted["template"],
            add_generation_prompt=wanted["add_generation_prompt"],
            return_assistant_tokens_mask=has_blocks,
            **wanted["variables"],
        )
    except Exception as error:  # noqa: BLE001: whatever a template raises is a refusal
        return {"error": f"{type(error).__name__}: {error}"}
    to_bytes = lambda at: len(text[:at].encode())
    ranges = [[to_bytes(start), to_bytes(end)] for start, end in blocks[0]] if has_blocks else None
    return {"text": text, "generation": ranges}


def without_flags(messages: list) -> list:
    """Templates do not see the flags that say what trains."""
    return [{key: value for key, value in message.items() if key != "weight"} for message in messages]


def record(out: Path) -> None:
    """Writes the templates and chats with the texts for the constructs, and for one of 23 pairs of template and chat."""
    constructs, pairs = [], []
    for number, (name, wanted) in enumerate(cases()):
        is_construct = wanted["variables"].keys() >= VARIABLES.keys()
        if not is_construct and number % 23:
            continue
        found = expected(wanted)
        result = {"text": found.get("text"), "generation": found.get("generation")}
        if is_construct:
            constructs.append({"template": wanted["template"]} | result)
        else:
            template, chat = name.removesuffix(" with tools").split(" on ")
            arguments = {key: value for key, value in wanted["variables"].items() if key not in SPECIAL}
            asked = {"tools": wanted["tools"] is not None, "add_generation_prompt": wanted["add_generation_prompt"]}
            pairs.append({"template": template, "chat": chat, "arguments": arguments} | asked | result)
    content = {
        "templates": templates(),
        "chats": CHATS,
        "tools": TOOLS,
        "variables": VARIABLES,
        "constructs": constructs,
        "pairs": pairs,
    }
    out.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{len(constructs)} constructs and {len(pairs)} pairs in {out}")


def compare(render: str) -> int:
    named = list(cases())
    lines = "".join(json.dumps(wanted) + "\n" for _, wanted in named)
    answers = subprocess.run([render], input=lines, capture_output=True, text=True, check=True).stdout
    different = refused = 0
    for (name, wanted), line in zip(named, answers.rstrip("\n").split("\n"), strict=True):
        ours, theirs = json.loads(line), expected(wanted)
        refused += "error" in theirs
        same = ("error" in ours) == ("error" in theirs) and ours.get("text") == theirs.get("text")
        if not same or ours.get("generation") != theirs.get("generation"):
            different += 1
            if different <= SHOWN:
                print(f"FAIL {name}\n  ours   {json.dumps(ours, ensure_ascii=False)}\n  theirs {json.dumps(theirs, ensure_ascii=False)}")
    print(f"{len(templates())} templates, {len(CHATS)} chats: {len(named)} renderings, {refused} of them refused, {different} differ")
    return int(different > 0)


if __name__ == "__main__":
    reference.datetime = FixedDate
    reference.logger.setLevel("ERROR")
    if "--record" in sys.argv:
        record(Path(sys.argv[sys.argv.index("--record") + 1]))
    else:
        sys.exit(compare(sys.argv[1]))
