# Services that speak S3 and Azure's protocol on this machine, with a bucket and a container.
cat >/root/storage-server.py <<'PYTHON'
import sys, threading
from moto.s3.responses import S3Response
from moto.server import main
# Moto looks whether there is an object and then writes one, in steps that others come between.
lock, put = threading.Lock(), S3Response.put_object
def put_one(self):
    with lock:
        return put(self)
S3Response.put_object = put_one
main(sys.argv[1:])
PYTHON
"$TOOLS/python/bin/python" /root/storage-server.py -H 127.0.0.1 -p 5000 >/root/moto.log 2>&1 &
node "$TOOLS/node/node_modules/azurite/dist/src/blob/main.js" --blobHost 127.0.0.1 --blobPort 10000 --disableTelemetry -l /root/azurite \
  >/root/azurite.log 2>&1 &
python3 - <<'PYTHON'
import base64, hashlib, hmac, time, urllib.request
from email.utils import formatdate
def put(url, headers):
    for _ in range(600):
        try:
            return urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers, data=b""))
        except (ConnectionError, urllib.error.URLError) as error:
            if isinstance(error, urllib.error.HTTPError):
                raise SystemExit(error.read().decode())
            time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")
put("http://127.0.0.1:5000/acme-dr", {})
account = "devstoreaccount1"
key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
date, version = formatdate(usegmt=True), "2021-12-02"
kind = "application/x-www-form-urlencoded"
signed = f"PUT\n\n\n\n\n{kind}\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{version}\n/{account}/{account}/acme-dr\nrestype:container"
signature = base64.b64encode(hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()).decode()
put(f"http://127.0.0.1:10000/{account}/acme-dr?restype=container", {
    "x-ms-date": date, "x-ms-version": version, "content-type": kind, "authorization": f"SharedKey {account}:{signature}"})
PYTHON
