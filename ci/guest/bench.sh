#!/bin/busybox sh
. /ap.sh
ap_start || exit 1
echo "ADJUNCT-RATE-BEGIN"
for processes in 1 8; do
    rate=$(openssl speed -engine ibmca -elapsed -seconds 3 -multi $processes rsa2048 2>/dev/null | grep '^rsa')
    echo "ADJUNCT-RATE $processes $rate"
done
