#!/bin/sh
# The public header alone in a translation unit, in one language standard, every warning an error.
# usage: header_alone.sh HEADER STANDARD COMPILER...
set -eu
header=$1 std=$2
shift 2
case $std in
  c++*) language=c++ ;;
  *) language=c ;;
esac
# Twice: the include guard.
printf '#include "%s"\n#include "%s"\nint dsv4mx_header_alone(void);\n' "$header" "$header" |
  "$@" -x $language -std="$std" -pedantic-errors -Wall -Wextra -Werror -Wundef -fsyntax-only -
echo "$header compiles alone as $std"
