"""What the answers come from: which weights, and which bits class. Numbers of different origins must not be mixed."""

import json

import requests


class Ended(Exception):
    """Why a run could not go on, and the status that it exits with. 1: it can be run again."""

    def __init__(self, why, status=1):
        super().__init__(why)
        self.status = status


class Refused(Ended):
    """Files, flags or servers do not fit together."""

    def __init__(self, why):
        super().__init__(why, status=2)


class Origins:
    """The weights and the bits class of the answers so far, by model and exactness, with which others are not mixed."""

    def __init__(self, allow_mixed):
        self.allow_mixed = allow_mixed
        self.seen = {}

    def admit(self, key, weights, bits_class):
        name = f"model `{key[0]}`" if key[0] else "the default model"
        old_weights, old_class = self.seen.setdefault(key, (weights, bits_class))
        if weights != old_weights:
            raise Refused(f"{name} has the weights {weights}, but other answers come from {old_weights}")
        if self.allow_mixed:
            return
        if bits_class is None:
            raise Refused(f"{name} has no bits class: the server is not a Candor, or an old one")
        if bits_class != old_class:
            raise Refused(
                f"{name} has the bits class {bits_class}, but other answers have {old_class}: their numbers differ. "
                "With --allow-mixed they are mixed, and each row says its class"
            )


def key_of(request):
    """What must have one origin. Requests with "exact": true may have another class than others."""
    body = request["body"]
    return body.get("model") or "", body.get("exact") is True


def new_session(options):
    session = requests.Session()
    session.trust_env = False
    session.headers["content-type"] = "application/json"
    if options.key:
        session.headers["authorization"] = f"Bearer {options.key}"
    session.mount("http", requests.adapters.HTTPAdapter(pool_maxsize=options.concurrency))
    return session


def models(session, url):
    """The weights and the bits class of each model of a server, by its name; the first is also the default, ''."""
    answer = session.get(f"{url}/v1/models", timeout=10)
    if answer.status_code != 200:
        raise Refused(f"{url}/v1/models answers {answer.status_code}: {message(answer.text)}")
    found = {}
    for model in answer.json()["data"]:
        origin = (model.get("meta") or {}).get("fingerprint"), model.get("bits_class")
        found.setdefault("", origin)
        found[model["id"]] = origin
    return found


def message(text):
    """The message of an error."""
    try:
        return json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return text[:200]
