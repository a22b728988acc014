#!/bin/busybox sh
echo "$NODE in $ZONE: Linux $(/bin/busybox uname -r) on $(/bin/busybox uname -m)"
