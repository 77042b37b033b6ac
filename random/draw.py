"""draw.py SEED COUNT SESSIONS [NAME…]: draws sessions, with what the server of KUBECONFIG tells of its kinds, and writes them down."""
import os
import sys

import api
import session
from drawing import generators


def main():
    seed, count, path, *names = sys.argv[1:]
    world = generators.World(api.Server(os.environ["KUBECONFIG"]))
    session.write(path, generators.sessions(seed, int(count), names, world))


if __name__ == "__main__":
    main()
