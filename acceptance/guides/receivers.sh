# A receiver of webhooks and a mail server, by the names that the guide has, with certificates that this machine trusts; and the secrets of
# both. What the receiver takes is in /root/webhook.json and /root/webhook.signature.
echo '127.0.0.1 ops.example.com mail.example.com' >>/etc/hosts
(umask 077; echo 'the secret of the receiver' >/etc/lifeboat/webhook.secret; echo 'the password of lifeboat' >/etc/lifeboat/smtp.password)
mkdir -p /root/receivers && cd /root/receivers
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=an authority' -keyout ca.key -out ca.pem 2>openssl.log
openssl req -newkey rsa:2048 -nodes -subj '/CN=receivers' -keyout server.key -out server.csr 2>>openssl.log
printf 'subjectAltName=DNS:ops.example.com,DNS:mail.example.com\n' >names
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem 2>>openssl.log
mkdir -p /etc/ssl/certs && cat ca.pem >>/etc/ssl/certs/ca-certificates.crt
unset SSL_CERT_FILE SSL_CERT_DIR
cat >receivers.py <<'PYTHON'
import asyncio, http.server, ssl, threading
from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import SMTP, AuthResult
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("server.pem", "server.key")
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if b'"state":"test"' in body:
            open("/root/webhook.json", "wb").write(body)
            open("/root/webhook.signature", "w").write(self.headers["lifeboat-signature"])
        self.send_response(204)
        self.end_headers()
hooks = http.server.HTTPServer(("127.0.0.1", 443), Hook)
hooks.socket = context.wrap_socket(hooks.socket, server_side=True)
threading.Thread(target=hooks.serve_forever, daemon=True).start()
password = open("/etc/lifeboat/smtp.password", "rb").read().strip()
def check(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == (b"lifeboat", password), handled=False)
def make():
    return SMTP(Mailbox("/root/mails"), authenticator=check, auth_required=True, tls_context=context, require_starttls=True)
async def main():
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 587)
    await server.serve_forever()
asyncio.run(main())
PYTHON
"$TOOLS/python/bin/python" receivers.py >/root/receivers.log 2>&1 &
for port in 443 587; do
  for ((try = 0; try < 300; try++)); do
    ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    sleep 0.1
  done
  (exec 3<>"/dev/tcp/127.0.0.1/$port")
done
cd /root
