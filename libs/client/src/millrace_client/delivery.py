"""What is done with the result of each of a schedule's jobs: one small class per way of delivery."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from millrace.scheduler.v1 import schedule_pb2
from millrace.scheduler.v1 import scheduler_service_pb2 as messages
from millrace_client.contract_enum import ContractEnum


@dataclass(frozen=True, slots=True)
class DownloadDelivery:
    """Nothing is sent: people download it."""

    on_failure: bool = field(default=False, kw_only=True)
    """Refused by the service when True: there is nothing to do then."""


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """An HTTP POST of the job as JSON, signed as Standard Webhooks says."""

    url: str
    """https, or http to a host that the service's operator allows."""
    secret: str | None = field(default=None, repr=False)
    """ "whsec_" and 24 to 64 bytes in base64. None as an answer, always; None in an update that leaves `url` as it
    is: it stays."""
    on_failure: bool = field(default=False, kw_only=True)
    """Also when the job has failed for good."""


@dataclass(frozen=True, slots=True)
class EmailDelivery:
    """An e-mail. {{name}} in its subject and body stands for a variable, such as {{schedule_name}} or {{link}}."""

    to: Iterable[str]
    """1 to 20 addresses."""
    subject: str = ""
    """At most 200 characters; empty: the schedule's name and the status."""
    body: str = ""
    """At most 10,000 characters; empty: a few plain lines."""
    attach: bool = False
    """The output file is attached, if it is not larger than 10 MiB; otherwise there is a link."""
    on_failure: bool = field(default=False, kw_only=True)
    """Also when the job has failed for good."""

    def __post_init__(self) -> None:
        """TypeError for a single text, which would be taken letter by letter."""
        if isinstance(self.to, str):
            raise TypeError("the addresses of an e-mail are a list")
        object.__setattr__(self, "to", tuple(self.to))


@dataclass(frozen=True, slots=True)
class StorageDelivery:
    """The output file is kept under a path of its own."""

    path: str
    """Relative, at most 500 characters, such as "reports/{{scheduled_date}}/{{file_name}}"."""
    on_failure: bool = field(default=False, kw_only=True)
    """Refused by the service when True: a job that failed leaves nothing to keep."""


Delivery: TypeAlias = DownloadDelivery | WebhookDelivery | EmailDelivery | StorageDelivery


class DeliveryMethod(StrEnum):
    """A way of delivery."""

    NONE = "NONE"
    """Nothing is done; the output is read from the job."""
    DOWNLOAD = "DOWNLOAD"
    WEBHOOK = "WEBHOOK"
    EMAIL = "EMAIL"
    STORAGE = "STORAGE"
    UNKNOWN = "UNKNOWN"
    """A way that this version of the SDK does not know."""


_METHODS = ContractEnum(DeliveryMethod, messages.DeliveryMethod.items(), "DELIVERY_METHOD_")


def method_value(method: DeliveryMethod | str | None) -> messages.DeliveryMethod.ValueType:
    """Return the contract's value, the unspecified one for None; ValueError for an unknown way."""
    value: messages.DeliveryMethod.ValueType = _METHODS.value(method)
    return value


def to_delivery(delivery: Delivery | None) -> schedule_pb2.Delivery | None:
    """Turn a delivery into the contract's message."""
    if delivery is None:
        return None
    message = schedule_pb2.Delivery(on_failure=delivery.on_failure)
    match delivery:
        case DownloadDelivery():
            message.download.SetInParent()
        case WebhookDelivery(url, secret):
            message.webhook.CopyFrom(schedule_pb2.WebhookDelivery(url=url, secret=secret or ""))
        case EmailDelivery(to, subject, body, attach):
            message.email.CopyFrom(
                schedule_pb2.EmailDelivery(to=to, subject=subject, body=body, attach=attach)
            )
        case StorageDelivery(path):
            message.storage.CopyFrom(schedule_pb2.StorageDelivery(path=path))
    return message


def read_delivery(message: schedule_pb2.Delivery) -> Delivery | None:
    """Turn the contract's message into a delivery; None when it is unset, or of a way that this SDK does not know."""
    read = _READERS.get(message.WhichOneof("method") or "")
    return read(message) if read is not None else None


def _read_webhook(message: schedule_pb2.Delivery) -> Delivery:
    return WebhookDelivery(message.webhook.url, message.webhook.secret or None, on_failure=message.on_failure)


def _read_email(message: schedule_pb2.Delivery) -> Delivery:
    email = message.email
    return EmailDelivery(email.to, email.subject, email.body, email.attach, on_failure=message.on_failure)


_READERS: Mapping[str, Callable[[schedule_pb2.Delivery], Delivery]] = {
    "download": lambda message: DownloadDelivery(on_failure=message.on_failure),
    "webhook": _read_webhook,
    "email": _read_email,
    "storage": lambda message: StorageDelivery(message.storage.path, on_failure=message.on_failure),
}
