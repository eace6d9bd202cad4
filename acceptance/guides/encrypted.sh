# Files on a volume, a point of them, and somebody who encrypts them where they are.
lifeboat group create --name crm --site onprem --policy standard
lifeboat volume create --name files --gateway primary --group crm --size 96MiB
for ((try = 0; try < 300; try++)); do [ ! -e "$mount/volumes/files.img" ] || break; sleep 0.2; done
device=$(losetup --direct-io=on --find --show "$mount/volumes/files.img")
mkfs.ext4 -q "$device" && install -d /srv/files && mount "$device" /srv/files
for number in {100..299}; do seq -f "line %g of letter $number: what somebody owes to somebody" 2000 >"/srv/files/$number.txt"; done
sync -f /srv/files
lifeboat point take --group crm --label 'as they were'
for file in /srv/files/*.txt; do
  head -c "$(stat --format=%s "$file")" /dev/urandom | dd of="$file" conv=notrunc,fsync status=none
  mv "$file" "$file.locked"
done
sync -f /srv/files
