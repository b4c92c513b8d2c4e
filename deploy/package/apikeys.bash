# Completion of `apikeys` for bash. The command prints a line for each value, with a description after
# a tab, and at the end a line with a number. `compgen -W` would expand values as the shell does.
_apikeys() {
	local value word=${COMP_WORDS[COMP_CWORD]}
	COMPREPLY=()
	while IFS=$'\t' read -r value _; do
		[[ $value != "$word"* ]] || COMPREPLY+=("$value")
	done < <(apikeys __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | sed '$d')
}
complete -o default -F _apikeys apikeys
