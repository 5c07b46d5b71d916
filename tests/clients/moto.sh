# moto, which plays AWS's other services for clients that need one beside the KMS: to be sourced; sets moto_url.
moto_log=$PWD/moto.log
(cd / && exec moto_server -H 127.0.0.1 -p 0) >"$moto_log" 2>&1 &
moto=$!
trap 'kill "$moto" 2>/dev/null || true' EXIT
moto_url=
for _ in $(seq 600); do
    moto_url=$(sed -n 's/.*Running on \(http:[^ ]*\).*/\1/p' "$moto_log" | head -1)
    [[ -z $moto_url ]] || break
    kill -0 "$moto" || {
        cat "$moto_log" >&2
        exit 1
    }
    sleep 0.1
done
[[ -n $moto_url ]]
