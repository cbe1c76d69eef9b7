"""What a request may say. Every field is honoured or refused: none is read over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    ValidationError,
    model_validator,
)

NEUTRAL: Mapping[str, Sequence[Any]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),  # of functions, as tool_choice of tools
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "metadata": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),  # of tools
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_calls": ([],),  # of a message
    "tool_choice": ("none", "auto"),  # of tools, which are refused by their own name
    "tools": ([],),
    "top_logprobs": (0,),  # where logprobs is true, that is refused by its own name
}
"""What clients send of fields that are not served, where it asks for nothing."""
GREEDY_BELOW = 1e-5
LONGEST_LIST = 2048
"""Messages of a request, as OpenAI's, and parts of a message. Reading holds all other requests up:
lists end at their first fault, and longer ones are not read."""
MOST_FIELDS = 64
"""Of an object, served or not."""


class Refused(Exception):
    """A request that is not answered: HTTP status, the field at fault, OpenAI's word for it."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.content = {
            "error": {"message": message, "type": kind, "param": param, "code": code},
        }


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_what_says_nothing(cls, given: Any) -> Any:
        """null is the default, as OpenAI's."""
        if not isinstance(given, dict):
            return given
        if len(given) > MOST_FIELDS:
            raise ValueError(f"{len(given)} fields in one object; {MOST_FIELDS} are read at most")
        return {
            name: value
            for name, value in given.items()
            if value is not None
            and (name in cls.model_fields or not _asks_for_nothing(name, value))
        }


def _asks_for_nothing(name: str, value: Any) -> bool:
    """0 is not false: `logprobs: 0` asks for those of the tokens that were sampled."""
    return any(
        value == nothing and isinstance(value, bool) == isinstance(nothing, bool)
        for nothing in NEUTRAL.get(name, ())
    )


def _joined(content: Any) -> Any:
    """Text that comes in parts, as one."""
    if not isinstance(content, list):
        return content
    if len(content) > LONGEST_LIST:
        raise ValueError(f"{len(content)} parts; {LONGEST_LIST} are read at most")
    texts = [
        part.get("text")
        for part in content
        if isinstance(part, dict) and part.get("type") == "text"
    ]
    if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
        raise ValueError("only parts of type text are read")
    return "".join(map(str, texts))


def _short_enough(messages: Any) -> Any:
    """Before any of them is looked at."""
    if isinstance(messages, list) and len(messages) > LONGEST_LIST:
        raise ValueError(f"{len(messages)} messages; {LONGEST_LIST} are read at most")
    return messages


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


def _greedy_when_tiny(temperature: float) -> float:
    """Dividing by less would overflow."""
    return 0.0 if temperature < GREEDY_BELOW else temperature


def _only(prompt: Any) -> Any:
    """One text where a list has one."""
    return prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt


def _role(name: Any) -> Any:
    """developer is OpenAI's newer name of system."""
    return "system" if name == "developer" else name


class ChatMessage(_Strict):
    role: Annotated[Literal["system", "user", "assistant"], BeforeValidator(_role)]
    content: Annotated[str, BeforeValidator(_joined)]


class StreamOptions(_Strict):
    include_usage: bool = False


class Request(_Strict):
    """What both kinds share. None of how to sample is as the checkpoint's generation_config.json.

    top_k and repetition_penalty are not OpenAI's. user: changes no answer, by OpenAI's definition.
    """

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: Annotated[float, Field(ge=0, le=2), AfterValidator(_greedy_when_tiny)] | None = (
        None
    )
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    n: int = Field(1, ge=1, le=128)
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], FailFast(), BeforeValidator(_listed)
    ] = Field((), max_length=16)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    user: str | None = None

    @model_validator(mode="after")
    def _usage_is_streamed(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream: true")
        return self

    @property
    def limit(self) -> int | None:
        """The most tokens of an answer, where it is said."""
        return self.max_tokens


class ChatRequest(Request):
    prompt_field: ClassVar[str] = "messages"
    messages: Annotated[tuple[ChatMessage, ...], FailFast(), BeforeValidator(_short_enough)]
    max_completion_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        return self

    @property
    def limit(self) -> int | None:
        return self.max_tokens or self.max_completion_tokens

    @property
    def texts(self) -> Sequence[str]:
        """Of the prompt; each costs a token at least."""
        return [message.content for message in self.messages]


class CompletionRequest(Request):
    prompt_field: ClassVar[str] = "prompt"
    prompt: Annotated[str, BeforeValidator(_only)]

    @property
    def texts(self) -> Sequence[str]:
        """Of the prompt; each costs a token at least."""
        return [self.prompt]


Kind = TypeVar("Kind", bound=Request)


def read(kind: type[Kind], body: bytes) -> Kind:
    """A request's body. Raises Refused with the name of the first field at fault."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or None
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        reason = "not served here; leave it out"
    raise Refused(f"{field}: {reason}" if field else reason, param=field)
