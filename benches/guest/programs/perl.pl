use strict;
use warnings;
use integer;

my $seed = 1;

sub random {
    my ($limit) = @_;
    $seed = ($seed * 1103515245 + 12345) & 0x7fffffff;
    return ($seed >> 8) % $limit;
}

my @syllables = qw(ba ke li mo nu ra se ti vo xy);
my @words = map { join '', map { $syllables[random(10)] } 0 .. random(3) } 1 .. 20000;
my $text = join ' ', @words;

my %count;
$count{$_}++ for split / /, $text;
my @common = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;

my $replaced = ($text =~ s/\b(\w\w)(?:mo|nu)(\w*)\b/<$2$1>/g);
my $doubled = () = $text =~ /(\w\w)\1/g;
my $fields = 0;
for my $line (1 .. 3000) {
    my $record = sprintf '%05d;%s;%x', $line, $words[$line], random(65536);
    my ($number, $name, $value) = $record =~ /^0*(\d+);([a-z]+);([0-9a-f]+)$/ or die $record;
    $fields += $number + length($name) * hex $value;
}
my @table;
for my $i (0 .. 60) {
    for my $k (0 .. 60) {
        $table[$i][$k] = $i && $k ? ($table[$i - 1][$k] + $table[$i][$k - 1]) % 10007 : 1;
    }
}
print join('-', scalar(@common), $common[7], $replaced, $doubled, $fields, length $text, $table[60][60]), "\n";
