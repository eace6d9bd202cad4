#!/bin/sh
# A key management service for tests: it keeps secrets in files and gives tickets for them. The key's name is the
# directory for the files, or says how to misbehave. It refuses what a program of this kind must never be given.
set -u
[ $# -eq 0 ] || { echo "arguments are shown in lists of processes" >&2; exit 11; }
if env | grep -q '^LIFEBOAT_'; then echo "the environment holds variables of Lifeboat" >&2; exit 11; fi
question=$(cat)
text() { printf '%s' "$question" | sed -n "s/.*\"$1\":\"\\([^\"]*\\)\".*/\\1/p"; }
[ "$(printf '%s' "$question" | sed -n 's/.*"version":\([0-9]*\).*/\1/p')" = 1 ] || exit 11
slot=$(printf '%s' "$question" | sed -n 's/.*"slot":\([0-9]*\).*/\1/p')
key=$(text key)
context="$(text vault) $slot"

case $key in
exit:*) echo "as it was told" >&2; exit "${key#exit:}" ;;
sleep) exec sleep 600 ;;
killed) kill -9 $$ ;;
garbage) echo 'secret words'; exit 0 ;;
flood) yes 'and again' | head -c 200000; exit 0 ;;
short) printf '{"wrapped":"AAAA","secret":"AAAA"}'; exit 0 ;;
echo) printf '{"wrapped":"%s","secret":"%s"}' "$(text secret)" "$(text wrapped)"; exit 0 ;;
esac

[ -d "$key" ] || { echo "no key $key" >&2; exit 12; }
case $(text operation) in
wrap)
    ticket=$(head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n')
    (umask 077 && printf '%s\n%s\n' "$context" "$(text secret)" >"$key/$ticket")
    printf '{"wrapped":"%s"}\n' "$(printf '%s' "$ticket" | base64)"
    ;;
unwrap)
    ticket=$(text wrapped | base64 -d)
    [ -f "$key/$ticket" ] || { echo "this key wrapped nothing like that" >&2; exit 11; }
    [ "$(head -n 1 "$key/$ticket")" = "$context" ] || { echo "wrapped in another context" >&2; exit 11; }
    printf '{"secret":"%s"}\n' "$(tail -n 1 "$key/$ticket")"
    ;;
*) exit 11 ;;
esac
