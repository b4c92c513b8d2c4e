package redact

import "testing"

func TestDecodeByte(t *testing.T) {
	for _, test := range []struct {
		text        string
		c           byte
		next, level int
	}{
		{"a%41", 'a', 1, 0},
		{"%41", 'A', 3, 1},
		{"%4a%", 'J', 3, 1},
		{"%", '%', 1, 0},
		{"%4", '%', 1, 0},
		{"%g1", '%', 1, 0},
		{"%1g", '%', 1, 0},
		{"%25", '%', 3, 1},
		{"%254", '%', 3, 1},
		{"%25g1", '%', 3, 1},
		{"%251g", '%', 3, 1},
		{"%2541", 'A', 5, 2},
		{"%252541", 'A', 7, 3},
		{"%2641", '&', 3, 1},
		{"%3541", '5', 3, 1},

		{`\u0041`, 'A', 6, 0},
		{`\u0026x`, '&', 6, 0},
		{`\\\u0041`, 'A', 8, 0},
		{`\u0141`, '\\', 6, 0},
		{`\u1041`, '\\', 6, 0},
		{`\u004`, '\\', 1, 0},
		{`\ug041`, '\\', 1, 0},
		{`\u0g41`, '\\', 1, 0},
		{`\u00g1`, '\\', 1, 0},
		{`\u004g`, '\\', 1, 0},
		{`\n`, '\\', 2, 0},
		{`\\n`, '\\', 3, 0},
		{`\"a`, '\\', 2, 0},
		{`\a`, '\\', 1, 0},
		{`\`, '\\', 1, 0},
		{`\\`, '\\', 2, 0},
	} {
		c, next, level := decodeByte(test.text, 0)
		if c != test.c || next != test.next || level != test.level {
			t.Errorf("%s: %q to %d, %d times encoded; want %q to %d, %d times", test.text,
				c, next, level, test.c, test.next, test.level)
		}
		c, next, level = decodeByte([]byte("%"+test.text), 1)
		if c != test.c || next != test.next+1 || level != test.level {
			t.Errorf("%s behind another byte: %q to %d, %d times encoded", test.text, c, next, level)
		}
	}
}
