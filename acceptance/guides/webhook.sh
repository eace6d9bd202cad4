# The test came by both ways; what the guide shows of a webhook is what it is made of; and what a receiver has in hand.
grep -rq 'kind: notice.test' /root/mails/new
python3 - <<'PYTHON'
import json
shown, came = (list(json.load(open(f"/root/{name}.json"))) for name in ("shown", "webhook"))
assert shown == came, (shown, came)
PYTHON
TIME=$(sed 's/^t=\([0-9]*\),v1=.*/\1/' /root/webhook.signature) SIGNED=$(sed 's/.*,v1=//' /root/webhook.signature)
BODY=$(cat /root/webhook.json) SECRET=$(cat /etc/lifeboat/webhook.secret)
