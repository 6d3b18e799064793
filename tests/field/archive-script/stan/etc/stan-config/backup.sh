#!/bin/sh
# Channel, data file and index file of the slice.
mkdir -p "/archive/$1" && mv "$2" "/archive/$1/$(basename "${2%.bak}")" && rm "$3"
