# bash completion for apapacho-jobs                                                     -*- shell-script -*-
#
# Commands and options are taken from the program's own help, so this never lags behind it.

_apapacho_jobs() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local commands command='' words='' typed=() i

    COMPREPLY=()
    # readline takes "=" for a word of its own
    if [[ $current == '=' ]]; then
        current=''
    elif [[ $previous == '=' ]]; then
        previous=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    # What has been typed of the command, past the options and their values.
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            -d | -h | -p | -U | --dbname | --host | --port | --username) i=$((i + 1)) ;;
            -* | =) ;;
            *) typed+=("${COMP_WORDS[i]}") ;;
        esac
    done
    # A line for each command, of one word or two.
    commands=$(apapacho-jobs --help 2>/dev/null | sed -n '/^Commands:/,/^$/s/^  \([a-z][a-z-]*\( [a-z][a-z-]*\)\{0,1\}\) .*/\1/p')
    if grep -qxF -- "${typed[0]} ${typed[1]}" <<<"$commands"; then
        command="${typed[0]} ${typed[1]}"
    elif grep -qxF -- "${typed[0]}" <<<"$commands"; then
        command=${typed[0]}
    fi

    case $previous in
        --secret-file | --log | --port-file | --admin-key-file)
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            return
            ;;
        --language) words='en es' ;;
        --status) words='queued running succeeded failed timed_out cancelled interrupted crashed skipped missed coalesced paused no_worker' ;;
        --job) words='outbox payout cleanup retry' ;;
        *)
            if [[ $current == -* ]]; then
                # shellcheck disable=SC2086
                words=$(apapacho-jobs $command --help 2>/dev/null | grep -oE -- '--[a-z][a-z-]*')
            elif [[ -z $command ]]; then
                words=$(awk -v group="${typed[0]}" 'group == "" { print $1 } group != "" && $1 == group { print $2 }' <<<"$commands")
            elif [[ $command == run ]]; then
                words='outbox payout cleanup retry'
            elif [[ $command == 'outbox events' ]]; then
                words='pending published failed all'
            fi
            ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current" | sort -u)
}

complete -F _apapacho_jobs apapacho-jobs
