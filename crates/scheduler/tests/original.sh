#!/bin/bash
# Puts the same pods before the original kube-scheduler and before this one, each on an original kube-apiserver in a
# network namespace of its own, and compares placements, conditions and events word by word.
#   PEERS=DIR KIT=DIR ALONE=PROGRAM original.sh WORKDIR
# It ends with "the same, word by word", or with the difference. By hand, since it wants the original's programs; half a minute.
# Last run on 29 November 2026, against v1.37.2: the same.
# PEERS: the folder with `cluster` and the programs that `build` made in bin; KIT: has kubectl; ALONE: the example `alone`.
set -euo pipefail
work=$(realpath -m "${1:?folder}")
who=${2:-}

if [ -z "$who" ]; then
    for who in original ours; do unshare -n "$0" "$work" $who; done
    diff "$work/original/result" "$work/ours/result" && echo "the same, word by word"
    exit
fi

dir=$work/$who
rm -rf "$dir" && mkdir -p "$dir"
export BIN=$PEERS/bin KIT
# A new namespace's loopback link is down.
python3 -c 'import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh22x", b"lo", 0x41))'
trap '"$PEERS/cluster" "$dir" down >/dev/null 2>&1 || true' EXIT
if [ "$who" = original ]; then
    "$PEERS/cluster" "$dir" up etcd apiserver sched
else
    "$PEERS/cluster" "$dir" up etcd apiserver
    "$ALONE" "$dir/certs/scheduler.conf" >"$dir/log" 2>&1 &
    alone=$!
    trap 'kill $alone || true; "$PEERS/cluster" "$dir" down >/dev/null 2>&1 || true' EXIT
fi
k() { "$KIT/kubectl" --kubeconfig="$dir/kubeconfig" "$@"; }
pod() { # name, spec, value of the label `set`
    k -n t apply -f - >/dev/null <<X
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"$1","labels":{"app":"$1","set":"${3:-none}"}},"spec":$2}
X
}
asks() { echo "\"containers\":[{\"name\":\"c\",\"image\":\"i\",\"resources\":{\"requests\":{\"cpu\":\"$1\"}}${2:-}}]"; }

k create namespace t >/dev/null
k -n t create serviceaccount default >/dev/null
k create priorityclass high --value=1000 >/dev/null
k create priorityclass never --value=1000 --preemption-policy=Never >/dev/null
pod nonodes "{$(asks 10m)}"
# The scheduler may still be starting.
for _ in $(seq 100); do k -n t get events 2>/dev/null | grep -q 'no nodes available' && break; sleep 0.2; done
# Gone before the nodes come: how often it is looked at while they are being set up is a matter of speed.
k -n t delete pod nonodes --now >/dev/null
for n in n1 n2 n3; do
    echo "{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{\"name\":\"$n\",\"labels\":{\"kubernetes.io/hostname\":\"$n\",\"zone\":\"$n\"}}}" | k apply -f - >/dev/null
    room='{"cpu":"2","memory":"4Gi","pods":"10"}'
    k patch node $n --subresource=status --type=merge -p "{\"status\":{\"capacity\":$room,\"allocatable\":$room}}" >/dev/null
    k patch node $n --type=json -p '[{"op":"remove","path":"/spec/taints"}]' >/dev/null 2>&1 || true
done
k taint node n2 k=v:NoSchedule >/dev/null
k cordon n3 >/dev/null; sleep 1
pod fits "{$(asks 1)}"; sleep 0.5
pod toobig "{$(asks 5)}"
pod nofit "{$(asks 1500m)}"
pod selector "{\"nodeSelector\":{\"x\":\"y\"},$(asks 10m)}"
pod pvc "{\"volumes\":[{\"name\":\"v\",\"persistentVolumeClaim\":{\"claimName\":\"gone\"}}],$(asks 10m)}"
port=',"ports":[{"containerPort":80,"hostPort":80}]'
pod port1 "{$(asks 10m "$port")}"; sleep 0.5; pod port2 "{$(asks 10m "$port")}"
spread='"topologySpreadConstraints":[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule","labelSelector":{"matchLabels":{"set":"s"}}}]'
pod spread1 "{$spread,$(asks 10m)}" s; sleep 0.5; pod spread2 "{$spread,$(asks 10m)}" s
term() { echo "{\"requiredDuringSchedulingIgnoredDuringExecution\":[{\"topologyKey\":\"kubernetes.io/hostname\",\"labelSelector\":{\"matchLabels\":{\"app\":\"$1\"}}}]}"; }
pod anti "{\"affinity\":{\"podAntiAffinity\":$(term fits)},$(asks 10m)}"
pod near "{\"affinity\":{\"podAffinity\":$(term nobody)},$(asks 10m)}"
fields='{"nodeSelectorTerms":[{"matchFields":[{"key":"metadata.name","operator":"In","values":["n3"]}]}]}'
pod fields "{\"affinity\":{\"nodeAffinity\":{\"requiredDuringSchedulingIgnoredDuringExecution\":$fields}},$(asks 10m)}"
pod gated "{\"schedulingGates\":[{\"name\":\"a.b/c\"}],$(asks 10m)}"
pod never "{\"priorityClassName\":\"never\",$(asks 1500m)}"; sleep 1
pod high "{\"priorityClassName\":\"high\",$(asks 1500m)}"; sleep 2

{ k -n t get events -o json; k -n t get pods -o json; } | python3 -c '
import json, re, sys
decoder, text = json.JSONDecoder(), sys.stdin.read().strip()
events, end = decoder.raw_decode(text)
pods, _ = decoder.raw_decode(text[end:].strip())
uid = lambda m: re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "UID", m)
for line in sorted(" | ".join((e["involvedObject"]["name"], e["reason"], e["type"], uid(e["message"]))) for e in events["items"]):
    print(line)
for p in pods["items"]:
    s = p["status"]
    conditions = [(c["type"], c["status"], c.get("reason"), c.get("message"), c.get("observedGeneration")) for c in s.get("conditions", [])]
    print(p["metadata"]["name"], p["spec"].get("nodeName"), s.get("nominatedNodeName"), "deletionTimestamp" in p["metadata"], conditions, sep=" | ")
' >"$dir/result"
