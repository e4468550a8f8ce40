cd /work/tmp/breaker/base
for a in / . "" .. results/runs results/weights "results/weights/x.safetensors" "nope" "results/runs/" "/etc/passwd" "x/y" $'a\nb' "$(printf 'x%.0s' {1..300})" "results/published" "../base"; do echo "--- evaluate '${a:0:60}'"; lib evaluate "$a" --device cpu 2>&1 | tail -2 | cut -c1-250; done
W=$(ls results/weights | head -1); echo $W
lib evaluate $W --device cpu 2>&1 | tail -1 | cut -c1-200
lib evaluate $PWD/results/weights/$W --device cpu 2>&1 | tail -1| cut -c1-200
lib evaluate results/weights/../weights/$W --device cpu 2>&1 | tail -1| cut -c1-200
lib evaluate $W --device cuda 2>&1 | tail -1| cut -c1-200
lib evaluate $W --device mps 2>&1 | tail -1| cut -c1-200
lib evaluate ${W%%.*} --device "cuda:-1" 2>&1 | tail -1| cut -c1-200
