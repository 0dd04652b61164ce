# So many bytes of something like text, the same ones each time.
use integer;
my ($bytes) = @ARGV;
my $seed = 1;
sub random { $seed = ($seed * 1103515245 + 12345) & 0x7fffffff; return ($seed >> 8) % $_[0]; }
my @words = map { join '', map { chr 97 + random(26) } 0 .. 1 + random(8) } 1 .. 3000;
my $text = '';
while (length $text < $bytes) {
    my $n = random(3000);
    $text .= $words[$n * random(3000) / 3000];
    $text .= random(12) ? ' ' : ".\n";
}
print substr $text, 0, $bytes;
