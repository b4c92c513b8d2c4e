# Completion of `apikeys` for bash. The command prints a line for each value, with a description after
# a tab, and at the end a line with a number. `compgen -W` would expand values as the shell does.
_apikeys() {
	local value current kept line=${COMP_LINE:0:COMP_POINT} words
	read -ra words <<<"$line"
	[[ $line != *' ' ]] || words+=("")
	# The command prints values of --flag= without the flag. Bash replaces what follows = or a colon.
	current=${words[-1]}
	[[ $current != -*=* ]] || current=${current#*=}
	kept=${current%"${current##*:}"}
	COMPREPLY=()
	while IFS=$'\t' read -r value _; do
		[[ $value != "$current"* ]] || COMPREPLY+=("${value#"$kept"}")
	done < <(apikeys __complete "${words[@]:1}" 2>/dev/null | sed '$d')
}
complete -o default -F _apikeys apikeys
