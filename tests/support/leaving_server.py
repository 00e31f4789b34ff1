"""A web server that leaves a grandchild in a session of its own, as the worst of services do."""

import http.server
import subprocess
import sys

if __name__ == "__main__":
    sleeper = "import signal; signal.pause()"
    subprocess.Popen([sys.executable, "-c", sleeper], start_new_session=True)
    address = ("127.0.0.1", int(sys.argv[1]))
    http.server.ThreadingHTTPServer(address, http.server.SimpleHTTPRequestHandler).serve_forever()
