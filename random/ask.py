"""ask.py SESSIONS ANSWERS: asks the server of KUBECONFIG, and writes down a line of answers a session.

Cases of an independent session are asked several at a time; other sessions are held several at a time, each with its cases in their
order. Where a session cannot be set up, each of its answers says why (`unprepared`).
"""
import concurrent.futures
import json
import os
import sys
import time

import api
import session

AT_A_TIME = 4
PATIENCE_S = 30
PAUSE_S = .03


class Unprepared(Exception):
    pass


def asked(server, sessions):
    """The answers to each session, in their order."""
    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
        answers = [_held(server, one, pool.map) if one.independent else None for one in sessions]
        waiting = [None if one.independent else pool.submit(_held, server, one, map) for one in sessions]
        return [told if told is not None else held.result() for told, held in zip(answers, waiting)]


def _held(server, one, each):
    """EACH: `map`, or one that asks several at a time."""
    try:
        prepare(server, one.setup)
        answers = list(each(server.answer, one.cases))
    except Unprepared as why:
        answers = [{"unprepared": str(why)}] * len(one.cases)
    clean(server, one.cleanup)
    return answers


def prepare(server, steps):
    for step in steps:
        if "send" in step:
            _send(server, step)
        else:
            _wait(server, step["until"])


def _send(server, step):
    """What is there already is as good; what is still going, or not yet served, is waited for."""
    verb, path = step["send"].split(" ", 1)
    begun = time.monotonic()
    while True:
        status, body = server.json(verb, path, step["body"])
        going = status == 409 and "object is being deleted" in json.dumps(body)
        if status < 300 or status == 409 and not going:
            return
        if not going and status not in (404, 429, 500) or time.monotonic() - begun > PATIENCE_S:
            raise Unprepared(f"{step['send']}: {status} {json.dumps(body)}")
        time.sleep(PAUSE_S)


def _wait(server, request):
    """A definition is waited for until it says that it is established: it is served a moment before."""
    verb, path = request.split(" ", 1)
    begun = time.monotonic()
    while True:
        status, body = server.json(verb, path)
        if status < 300 and ("/customresourcedefinitions/" not in path or _is_established(body)):
            return
        if time.monotonic() - begun > PATIENCE_S:
            raise Unprepared(f"{request}: still {status} after {PATIENCE_S} s")
        time.sleep(PAUSE_S)


def _is_established(definition):
    conditions = (definition.get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Established" and condition["status"] == "True" for condition in conditions)


def clean(server, requests):
    """Deletes, and waits for the end of what was deleted. Patches (that take finalizers away) come before."""
    for request in requests:
        verb, path = request.split(" ", 1)
        if verb == "PATCH":
            server.json(verb, path, {"metadata": {"finalizers": None}}, session.MERGE)
            continue
        server.json(verb, path)
        begun = time.monotonic()
        while server.json("GET", path)[0] != 404 and time.monotonic() - begun < PATIENCE_S:
            time.sleep(PAUSE_S)


def main():
    sessions, answers = sys.argv[1:]
    begun = time.monotonic()
    told = asked(api.Server(os.environ["KUBECONFIG"]), session.read(sessions))
    with open(answers, "w") as file:
        for of_session in told:
            file.write(json.dumps(of_session) + "\n")
    print(f"{sum(map(len, told))} requests in {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
