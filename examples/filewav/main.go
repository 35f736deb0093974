// Command filewav makes a WAV file in memory. The package github.com/go-audio/wav
// goes back to the header to write sizes that are known only at the end, so it
// requires an io.WriteSeeker. Without a File that would be a temporary file.
//
//	go -C examples run ./filewav tone.wav
package main

import (
	"io"
	"log"
	"math"
	"os"

	"github.com/go-audio/audio"
	"github.com/go-audio/wav"

	"github.com/mmapbuf/mmapbuf"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: filewav file")
	}
	var b mmapbuf.Buffer
	if err := tone(mmapbuf.NewFile(&b), 5); err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(os.Args[1], b.Bytes(), 0o644); err != nil {
		log.Fatal(err)
	}
}

const sampleRate = 44_100

// tone writes a sine of 440 Hz to w.
func tone(w io.WriteSeeker, seconds int) error {
	const bits, channels, pcm = 16, 1, 1
	second := &audio.IntBuffer{
		Format: &audio.Format{NumChannels: channels, SampleRate: sampleRate},
		Data:   make([]int, sampleRate),
	}
	for i := range second.Data {
		second.Data[i] = int(20_000 * math.Sin(2*math.Pi*440*float64(i)/sampleRate))
	}
	encoder := wav.NewEncoder(w, sampleRate, bits, channels, pcm)
	for range seconds {
		if err := encoder.Write(second); err != nil {
			return err
		}
	}
	return encoder.Close() // writes the sizes
}
