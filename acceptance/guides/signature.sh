# What the reader computes is what stands in the header.
[ "$(printf '%s.%s' "$TIME" "$BODY" | openssl dgst -sha256 -hmac "$SECRET" | sed 's/.*= //')" = "$SIGNED" ]
