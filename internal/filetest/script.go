package filetest

import (
	"io"
	"math"
)

// A Script decodes steps from bytes: those of the fuzzer, or random ones.
type Script struct {
	Src                 io.ByteReader
	WriteBits, ReadBits int // log2 of the largest sizes
	Limit               int // of the contents

	// Own does one of two steps that os.Files do not have, 0 or 1, and returns its
	// name. It may be nil.
	Own func(k int) string

	done bool // Src has no more
}

func (s *Script) byte() byte {
	c, err := s.Src.ReadByte()
	s.done = s.done || err != nil
	return c
}

func (s *Script) uint16() int { return int(s.byte())<<8 | int(s.byte()) }

// Size draws a number below 1<<bits, its logarithm uniform.
func (s *Script) Size(bits int) int {
	e := int(s.byte()) % (bits + 1)
	return min(1<<e-1+s.uint16()<<max(0, e-16)&(1<<e-1), 1<<bits-1)
}

// data draws what to write at offset n.
func (s *Script) data(n int) []byte {
	k := min(s.Size(s.WriteBits), max(0, s.Limit-n))
	off := s.uint16()
	return Noise()[off : off+k]
}

// offset draws an offset up to n, beyond one that is at least n.
func (s *Script) offset(n int) int64 { return int64(uint64(s.uint16()) * uint64(n+1) >> 16) }

func (s *Script) beyond(n int) int64 { return int64(min(n+s.Size(s.WriteBits), max(n, s.Limit))) }

// Step draws a step and does it.
func (s *Script) Step(p *Pair) error {
	size := int(p.size)
	off64, err := p.got[p.at].Seek(0, io.SeekCurrent)
	off := int(off64)
	if err != nil {
		off = 0
	}
	var o Op
	switch c := s.byte() % 24; c {
	case 0, 1, 2:
		o = Write(s.data(off))
	case 3:
		o = WriteString(s.data(off))
	case 4, 5:
		o = Read(s.Size(s.ReadBits))
	case 6:
		o = ReadAt(s.Size(s.ReadBits), s.offset(size+10))
	case 7:
		at := s.offset(size)
		o = WriteAt(s.data(int(at)), at)
	case 8:
		at := s.beyond(size)
		o = WriteAt(s.data(int(at)), at)
	case 9, 10:
		o = Seek(s.offset(size), io.SeekStart)
	case 11:
		forth, back := s.Size(s.ReadBits), s.Size(s.ReadBits)
		o = Seek(int64(forth-back), io.SeekCurrent)
	case 12:
		o = Seek(-s.offset(size), io.SeekEnd)
	case 13:
		o = Seek(0, io.SeekEnd)
	case 14:
		o = Seek(s.beyond(size), io.SeekStart)
	case 15:
		o = Truncate(s.offset(size))
	case 16:
		o = Truncate(s.beyond(size))
	case 17, 18:
		o = ReadAll(s.data(off))
	case 19:
		max := s.Size(s.ReadBits)
		o = []Op{WriteTo(max, nil), WriteTo(max, ErrTest), WriteToBuffer, WriteToBuffer}[s.byte()%4]
	case 20:
		o = Other
	case 21, 22:
		if s.Own != nil {
			p.steps = append(p.steps, s.Own(int(c-21)))
		}
		return nil
	case 23:
		misuse := []Op{
			Seek(-1, io.SeekStart), Seek(math.MinInt64, io.SeekEnd), Seek(0, 77), ReadAt(1, -1), WriteAt("x", -1),
			Truncate(-1), Write(""), Read(0), WriteTo(math.MaxInt, nil), Close,
		}
		o = misuse[int(s.byte())%len(misuse)]
		if o.Name == Close.Name && s.byte()%8 != 0 { // rare, or little else happens
			return nil
		}
	}
	if s.done {
		return nil
	}
	return p.Step(o)
}

// Run does up to 200 steps, as many as there are in Src, and compares all.
func (s *Script) Run(p *Pair) error {
	for step := 0; step < 200 && !s.done; step++ {
		if err := s.Step(p); err != nil {
			return err
		}
	}
	return p.Compare()
}

// Walk does n steps, compares all after every some of them, and begins again when a
// File is closed.
func (s *Script) Walk(p *Pair, n, every int) error {
	for step := range n {
		if p.Closed() {
			if err := p.Compare(); err != nil {
				return err
			}
			if err := p.Reset(string(Noise()[:s.Size(s.WriteBits)])); err != nil {
				return err
			}
		}
		if err := s.Step(p); err != nil {
			return err
		}
		if step%every == 0 {
			if err := p.Compare(); err != nil {
				return err
			}
		}
	}
	return p.Compare()
}
