#!/bin/busybox sh
# Computes things whose results are known not to depend on the machine: lines "ADJUNCT-SAME ..." have to be equal under
# every emulator, with any number of CPUs.
export OPENSSL_CONF=/dev/null
same() { echo "ADJUNCT-SAME $*"; }

echo "ADJUNCT-CPUS $(grep -c '^processor' /proc/cpuinfo) of $(nproc)"
data=/usr/lib/s390x-linux-gnu/libcrypto.so.3
same key "$(sha256sum < /rsa/2048.pem)"
for digest in md5 sha1 sha256 sha512 sha3-256 blake2b512; do
    same $digest "$(openssl dgst -$digest -r < $data)"
done
for cipher in aes-128-cbc aes-256-ctr chacha20 camellia-256-cbc des-ede3-cbc; do
    same $cipher "$(openssl enc -$cipher -K 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff -iv \
        0123456789abcdef0123456789abcdef < $data 2> /dev/null | sha256sum)"
done
for bits in 1024 2048 4096; do
    same rsa-$bits "$(openssl pkeyutl -decrypt -inkey /rsa/$bits.pem -pkeyopt rsa_padding_mode:none \
        -in /rsa/$bits.message-1 | xxd -p | tr -d '\n')"
done
same busybox "$(sha512sum < $data) $(md5sum < $data) $(crc32 $data)"
same gzip "$(gzip -c < /usr/bin/openssl | sha256sum)"
same text "$(strings $data | sort | uniq -c | sort -rn -k 2 | sha256sum)"
same float "$(awk 'BEGIN { for (i = 1; i < 2000; i++) { x = (x + i / 7) * 0.731 - i * i / 1e7; printf "%.17g %.17g %d\n", x, 1 / (i - 0.5) / 3, x * 1e6 % 977 } }' | sha256sum)"
same decimal "$(echo 'scale = 100; 4 * a(1); e(1); l(2); sqrt(3)' | bc -l | tr -d '\\\n')"
same loop "$(i=0; s=1; while [ $i -lt 20000 ]; do i=$((i + 1)); s=$(((s * 1103515245 + i) % 2147483647)); done; echo $s)"

# Several processes at once: the same digest from each.
for i in 1 2 3 4 5 6; do
    openssl dgst -sha256 -r < $data > /tmp/parallel.$i &
done
wait
same parallel "$(cat /tmp/parallel.* | uniq -c)"
echo "ADJUNCT-END 0"
