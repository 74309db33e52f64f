#!/bin/busybox sh
# The steps of the demo. The host prints the ADJUNCT- lines as verdicts and checks the RSA results itself.
. /ap.sh

rng=/sys/class/misc/hw_random/rng_current

# While requests are counted nobody else may send any: the kernel's entropy thread reads random bytes from
# CCA queues, and libica seeds itself from /dev/hwrng in every process.
rng_off() { [ ! -e $rng ] || echo none > $rng; }

# only QUEUE: every other queue offline.
only() {
    for other in $(queues); do
        if [ "$other" = "$1" ]; then
            chzcrypt -e "$other" > /dev/null
        else
            chzcrypt -d "$other" > /dev/null
        fi
    done
}

# rsa_batch OPERATION KEY COUNT: COUNT operations on the messages, results to /tmp/rsa.N; prints how many failed.
rsa_batch() {
    i=0
    failed=0
    while [ $i -lt "$3" ]; do
        i=$((i + 1))
        if [ "$1" = private ]; then
            openssl pkeyutl -decrypt -inkey "/rsa/$2.pem" -pkeyopt rsa_padding_mode:none \
                -in "/rsa/$2.message-$i" -out "/tmp/rsa.$i" 2> /tmp/rsa.error
        else
            openssl pkeyutl -encrypt -pubin -inkey "/rsa/$2-public.pem" -pkeyopt rsa_padding_mode:none \
                -in "/rsa/$2.message-$i" -out "/tmp/rsa.$i" 2> /tmp/rsa.error
        fi
        if [ $? != 0 ]; then
            failed=$((failed + 1))
            rm -f "/tmp/rsa.$i"
            sed 's/^/  /' /tmp/rsa.error
        fi
    done
    i=0
    while [ $i -lt "$3" ]; do
        i=$((i + 1))
        [ ! -e "/tmp/rsa.$i" ] || echo "ADJUNCT-RSA $queue $1 $2 $i $(xxd -p /tmp/rsa.$i | tr -d '\n')"
        rm -f "/tmp/rsa.$i"
    done
}

all_requests() {
    sum=0
    for q in $(queues); do sum=$((sum + $(requests $q))); done
    echo $sum
}

# rsa_counted OPERATION KEY COUNT: the operations, and the rise of the queue's, its card's and all queues' counts. One
# operation is one request: CRT for private, modulus and exponent for public. OpenSSL's blinding, which would send
# another request with the public exponent before each process's first private operation, is off: Debian's ibmca
# 1.4 calls RSA_blinding_off for every key.
rsa_counted() {
    before=$(requests $queue)
    card_before=$(cat "$(card_of $queue)/request_count")
    all_before=$(all_requests)
    rsa_batch "$1" "$2" "$3"
    rise=$(($(requests $queue) - before))
    card_rise=$(($(cat "$(card_of $queue)/request_count") - card_before))
    all_rise=$(($(all_requests) - all_before))
    text="$(type_of $queue) $queue: $3 operations, request_count rose by $rise (queue), $card_rise (card), $all_rise (all queues)"
    if [ $failed = 0 ] && [ $rise = $3 ] && [ $card_rise = $3 ] && [ $all_rise = $3 ]; then
        step "rsa-$1-$2" ok "$text"
    else
        step "rsa-$1-$2" FAIL "$text, expected $3 each, $failed failed"
    fi
}

rsa_steps() {
    rng_off
    for queue in $(queues); do
        case $(type_of $queue) in
            *A | *C) ;;
            *) continue ;;
        esac
        only $queue
        rsa_counted private 2048 $ADJUNCT_RSA
        rsa_counted public 2048 $ADJUNCT_RSA
        show lszcrypt -V
    done
    for queue in $(queues); do
        chzcrypt -e $queue > /dev/null
    done
}

random_bytes() { dd if=/dev/hwrng bs=$1 count=1 2> /dev/null; }

# The driver fetches 4096 bytes with one request: reading 8192 needs at least two.
hwrng_step() {
    # Only CCA coprocessors answer the kernel's requests for random bytes.
    for q in $(queues); do type_of $q; done | grep -q 'C$' || return 0
    echo zcrypt > $rng
    before=$(all_requests)
    one=$(random_bytes 64 | xxd -p | tr -d '\n')
    two=$(random_bytes 64 | xxd -p | tr -d '\n')
    more=$(random_bytes 8192 | wc -c)
    rise=$(($(all_requests) - before))
    zeros=$(printf %0128d 0)
    text="rng_current $(cat $rng), $rise requests for $((128 + more)) bytes: $(echo "$one" | cut -c 1-24)... $(echo "$two" | cut -c 1-24)..."
    if [ "$(cat $rng)" = zcrypt ] && [ ${#one} = 128 ] && [ ${#two} = 128 ] && [ "$more" = 8192 ] && [ $rise -ge 2 ] &&
        [ "$one" != "$two" ] && [ "$one" != "$zeros" ] && [ "$two" != "$zeros" ]; then
        step hwrng ok "$text"
    else
        step hwrng FAIL "$text"
    fi
}

attribute() {
    echo "ADJUNCT-ATTRIBUTE $1 $(basename $2) $(tr '\n' ';' < $2 2>/dev/null)"
}

attribute_steps() {
    for card in $ap/devices/card*; do
        missing=
        count=0
        for name in serialnr API_ordinalnr FW_version op_modes; do
            case $(cat $card/type):$name in
                *P:* | *C:serialnr) ;;
                *) continue ;;
            esac
            if [ -n "$(cat $card/$name 2>/dev/null)" ]; then
                attribute "${card##*/}" $card/$name
                count=$((count + 1))
            else
                missing="$missing $name"
            fi
        done
        case $(cat $card/type) in
            *[CP])
                for queue in $ap/devices/${card##*/card}.*; do
                    for name in mkvps op_modes; do
                        case $(cat $card/type):$name in *C:op_modes) continue ;; esac
                        if [ -n "$(cat $queue/$name 2>/dev/null)" ]; then
                            attribute "${queue##*/}" $queue/$name
                            count=$((count + 1))
                        else
                            missing="$missing ${queue##*/}/$name"
                        fi
                    done
                done
                ;;
            *) continue ;;
        esac
        if [ -z "$missing" ]; then
            step attributes ok "$(cat $card/type) ${card##*/}: $count sysfs attributes answered by the card"
        else
            step attributes FAIL "$(cat $card/type) ${card##*/}: no$missing"
        fi
    done
}

if ap_start; then
    show lszcrypt -V
    attribute_steps
    rsa_steps
    hwrng_step
    all_online && step back-online ok "every queue online again" || step back-online FAIL "a queue stayed offline"
    show lszcrypt -V
fi
echo "ADJUNCT-END $failures"
