# moto's token service behind TLS: PORT CERTIFICATE KEY. moto_server itself tells services apart by what this client does not send.
import sys
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), create_backend_app("sts"), ssl_context=(sys.argv[2], sys.argv[3]))
