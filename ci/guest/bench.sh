#!/bin/busybox sh
# RSA-2048 rates of stock OpenSSL through the cards, with one process and with eight.
. /ap.sh

ap_start || poweroff -f
for processes in 1 8; do
    before=0
    for q in $(queues); do before=$((before + $(requests $q))); done
    row=$(openssl speed -engine ibmca -elapsed -seconds 3 -multi $processes rsa2048 2> /dev/null | grep '^rsa ')
    after=0
    for q in $(queues); do after=$((after + $(requests $q))); done
    echo "ADJUNCT-RATE $processes $((after - before)) $row"
done
