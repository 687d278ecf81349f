# moto, one request after another, as it looks first whether an object is there and writes then: PORT [CERTIFICATE KEY].
# With TLS it is the token service: moto tells services apart by what this client does not send there.
import sys
import threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

port, *tls = sys.argv[1:]
moto = create_backend_app("sts") if tls else DomainDispatcherApplication(create_backend_app)
turn = threading.Lock()


def application(environ, start_response):
    with turn:
        return list(moto(environ, start_response))


run_simple("127.0.0.1", int(port), application, threaded=True, ssl_context=tuple(tls) or None)
