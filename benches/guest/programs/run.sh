# Runs a real program, a fixed amount of work so many rounds, and prints what benches/guest/main.c prints:
#     begin programs NAME
#     end programs NAME ROUNDS ok|wrong VALUE
# Arguments: how many per cent of the rounds, and the name of a file beside this one; or `list`.
#
# Each NAME.row says what is run: `rounds`, `expected`, `prepare` (not timed) and `round`, which prints one word.
here=${0%/*}

if [ "$1" = list ]; then
    for file in "$here"/*.row; do
        . "$file"
        name=${file##*/}
        echo "programs ${name%.row} $rounds 1"
    done
    exit 0
fi

percent=$1 name=$2
export LC_ALL=C PATH=/usr/bin:/bin TMPDIR=/tmp
cd /tmp || exit 2
prepare() { :; }
# The digest of what comes in, as one word.
sha256() {
    openssl dgst -r -sha256 | { read -r hash _; echo "$hash"; }
}
. "$here/$name.row" || exit 2
count=$((rounds * percent / 100))
[ $count -gt 0 ] || count=1
ok=ok n=0 value=nothing
prepare || { ok=wrong count=0 value="nothing to work on"; }
echo "begin programs $name"
while [ $n -lt $count ]; do
    value=$(round)
    [ "$value" = "$expected" ] || ok=wrong
    n=$((n + 1))
done
echo "end programs $name $count $ok $value"
